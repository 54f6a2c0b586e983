"""Checks of names that must be in the catalog, such as places, models and regulations.

`text_checks` refuses names that are too long and lists that are too large, so they are not looked
up here.
"""

import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.errors import CatalogError
from archwright.needs.countries import country_names, nearest_countries
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, nearest_spellings
from archwright.needs.text_checks import MAX_ITEMS, MAX_MACHINES, MAX_TEXT
from archwright.specfile import quote_value

_MACHINE_PATTERN = re.compile(r"[1-9][0-9]{0,3}\s*[xX×]\s*(\S.*)", re.ASCII)
_MODELS_HINT = "use the name of a model in the catalog"


def _unknown_name(
    path: str,
    name: str,
    known_names: Collection[str],
    *,
    noun: str,
    hint: str,
) -> NeedsProblem:
    message = f"the catalog has no {noun} {quote_value(name)}"
    suggest = partial(nearest_spellings, name, known_names)
    return NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint=hint, suggest=suggest)


def _first_unknown(
    path: str,
    names: Iterable[str],
    known_names: Collection[str],
    *,
    noun: str,
    hint: str,
) -> Iterator[NeedsProblem]:
    """Yield the first unknown name of a list or mapping; later ones are never reported."""
    for index, name in enumerate(names):
        if name not in known_names:
            step = f".{name}" if isinstance(names, Mapping) else f"[{index}]"
            yield _unknown_name(path + step, name, known_names, noun=noun, hint=hint)
            return


def check_places(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check residency, pinned regions and traffic: a country, a group of countries or a region."""
    known_places = catalog.places | country_names().keys()
    hint = "write an ISO country code, EEA, US, APAC, any, or a provider's region"
    for path, names in _list_places(needs):
        yield from _first_unknown(path, names, known_places, noun="place", hint=hint)


def _list_places(needs: Needs) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the path and the names of every field that holds places."""
    for index, data in enumerate(needs.data):
        yield f"data[{index}].residency", data.residency
    yield "placement.regions", needs.placement.regions or ()
    for index, workload in enumerate(needs.workloads):
        yield f"workloads[{index}].traffic.regions", workload.regions


def check_country_codes(needs: Needs, _catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check country codes by ISO 3166-1: a country is valid even without prices in the catalog."""
    for path, code in _list_country_codes(needs):
        if code not in country_names():
            message = f"{quote_value(code)} is not a country code"
            hint = "write the two capital letters of ISO 3166-1"
            suggest = partial(nearest_countries, code)
            yield NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint=hint, suggest=suggest)


def _list_country_codes(needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield the path and the value of every field that holds a country code."""
    yield "organisation.country", needs.organisation.country

    placement = needs.placement
    if placement.site is not None:
        yield "placement.site.country", placement.site.country
    for name, own_site in placement.sites.items():
        yield f"placement.sites.{name}.country", own_site.country

    for group, sites in needs.sites.items():
        for index, code in enumerate(sites.countries):
            yield f"sites.{group}.countries[{index}]", code


def check_providers_regulations_currency(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    providers = catalog.providers
    shown_providers = textwrap.shorten(", ".join(sorted(providers)), 280, placeholder=" ...")
    yield from _first_unknown(
        "placement.clouds",
        needs.placement.clouds or (),
        providers,
        noun="provider",
        hint=f"use one of: {shown_providers}",
    )

    regulations = catalog.regulations.keys()
    yield from _first_unknown(
        "regulations",
        needs.regulations,
        regulations,
        noun="regulation",
        hint=f"use one of: {', '.join(sorted(regulations))}",
    )

    currency = needs.budget.currency
    if currency not in catalog.currencies:
        yield _unknown_name(
            "budget.currency",
            currency,
            catalog.currencies,
            noun="currency",
            hint="write the three letters of ISO 4217; the catalog must have its exchange rate",
        )


def check_languages(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check languages by ISO 639-1; a language's name suggests its code."""
    for index, workload in enumerate(needs.workloads):
        path = f"workloads[{index}].languages"
        yield from _first_unknown_language(path, workload.languages, catalog)
    for index, data in enumerate(needs.data):
        path = f"data[{index}].languages"
        yield from _first_unknown_language(path, data.languages, catalog)


def _first_unknown_language(
    path: str,
    codes: Iterable[str],
    catalog: Catalog,
) -> Iterator[NeedsProblem]:
    for index, code in enumerate(codes):
        if code not in catalog.languages:
            yield NeedsProblem(
                NeedsCode.UNKNOWN_FACT,
                f"{path}[{index}]",
                f"{quote_value(code)} is not a language code",
                hint="write the two small letters of ISO 639-1",
                suggest=partial(_nearest_languages, code, catalog),
            )
            return


def _nearest_languages(word: str, catalog: Catalog) -> tuple[str, ...]:
    """Return the codes that `word` may mean.

    A name comes first (german, Deutsch), then the first part of a tag (de-DE), then the spelling.
    """
    codes_by_name: dict[str, str] = {}
    for code, row in catalog.languages.items():
        for name in (row.name, row.own_name):
            if name:
                codes_by_name[name] = code

    for name, code in codes_by_name.items():
        if name.casefold() == word.casefold():
            return (code,)

    first_part = word[:2].casefold()
    if first_part in catalog.languages and not word[2:3].isalnum():
        return (first_part,)

    similar_names = nearest_spellings(word, codes_by_name)
    similar_codes = dict.fromkeys(codes_by_name[name] for name in similar_names)
    return tuple(similar_codes)


def check_models(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check models, and bases that are not workloads.

    It stops at the first unknown name, since look-ups are slow.
    """
    workload_names = {workload.name for workload in needs.workloads}
    bases = workload_names | catalog.models.keys()
    for index, workload in enumerate(needs.workloads[:MAX_ITEMS]):
        model = workload.model
        if model is not None and not _is_known_model(model, workload.kind, catalog):
            path = f"workloads[{index}].model"
            known_names = _list_models(workload.kind, catalog)
            yield _unknown_name(path, model, known_names, noun="model", hint=_MODELS_HINT)
            return

        base = workload.base
        if base is None or base in workload_names:
            continue
        if not _is_known(base, catalog.models, catalog.model):
            name = quote_value(base)
            yield NeedsProblem(
                NeedsCode.UNKNOWN_FACT,
                f"workloads[{index}].base",
                f"{name} is neither a workload of this file nor a model in the catalog",
                hint=_MODELS_HINT,
                suggest=partial(nearest_spellings, base, bases),
            )
            return


def _is_known_model(model: str, kind: str, catalog: Catalog) -> bool:
    specialists = catalog.specialist_models(kind)
    if specialists:
        return model in specialists
    is_hosted = any(hosted.id == model for hosted in catalog.hosted)
    return is_hosted or _is_known(model, catalog.models, catalog.model)


def _list_models(kind: str, catalog: Catalog) -> set[str]:
    """Return the models that a workload of this kind may name."""
    names = set(catalog.specialist_models(kind))
    if not names:
        names.update(catalog.models)
        names.update(model.id for model in catalog.hosted)
    return names


def check_benchmarks(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    examples: list[str] = []
    for row in catalog.benchmark_table.values():
        if row.estimated == "yes" and row.unit == "share":
            examples.append(row.id)
    hint = f"use a benchmark such as {', '.join(sorted(examples))}"
    for index, workload in enumerate(needs.workloads):
        yield from _first_unknown(
            f"workloads[{index}].quality",
            workload.quality,
            catalog.benchmarks,
            noun="benchmark",
            hint=hint,
        )


def check_machines(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    # Every accelerator, and the names of their families.
    names = set(catalog.accelerators)
    for accelerator in catalog.accelerators:
        family = accelerator.partition("-")[0]
        names.add(family)

    yield from _check_accelerators(needs, names, catalog)
    yield from _check_owned_machines(needs, names, catalog)


def _check_accelerators(
    needs: Needs,
    names: Collection[str],
    catalog: Catalog,
) -> Iterator[NeedsProblem]:
    """Yield the first unknown accelerator that the placement allows."""
    hint = "use an accelerator of the catalog, or its family"
    accelerators = needs.placement.accelerators or ()
    for index, name in enumerate(accelerators[:MAX_MACHINES]):
        if not _is_known(name, catalog.accelerators, catalog.accelerator):
            path = f"placement.accelerators[{index}]"
            yield _unknown_name(path, name, names, noun="accelerator", hint=hint)
            return


def _check_owned_machines(
    needs: Needs,
    names: Collection[str],
    catalog: Catalog,
) -> Iterator[NeedsProblem]:
    """Yield the first owned machine without the form `8x NAME`, or with an unknown accelerator."""
    for index, owned in enumerate(needs.placement.owned[:MAX_MACHINES]):
        path = f"placement.owned[{index}].machine"
        match = _MACHINE_PATTERN.fullmatch(owned.machine)
        if match is None:
            form = "write number and name of the accelerators, as in `8x NAME`"
            yield NeedsProblem(
                NeedsCode.MALFORMED,
                path,
                f"{quote_value(owned.machine)} is not a machine",
                hint=form + "; `count` is the number of machines",
            )
            return
        if not _is_known(match[1], catalog.accelerators, catalog.accelerator):
            hint = "write it as in `8x NAME`"
            yield _unknown_name(path, match[1], names, noun="accelerator", hint=hint)
            return


def _is_known(name: str, ids: Collection[str], look_up: Callable[[str], object]) -> bool:
    """True if `name` is an id, or another spelling that `look_up` accepts."""
    if name in ids or len(name) > MAX_TEXT:
        return name in ids
    try:
        look_up(name)
    except CatalogError:
        return False
    return True

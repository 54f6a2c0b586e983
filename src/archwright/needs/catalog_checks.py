"""Checks of names that must be in the catalog: places, providers, accelerators, models, regulations.

`text_checks` refuses names that are too long and lists that are too large, so they are not looked up here.
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


def _unknown_name(path: str, what: str, name: str, known: Collection[str], hint: str) -> NeedsProblem:
    message = f"the catalog has no {what} {quote_value(name)}"
    return NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint, partial(nearest_spellings, name, known))


def _first_unknown(
    path: str, what: str, names: Iterable[str], known: Collection[str], hint: str
) -> Iterator[NeedsProblem]:
    """Yield the first unknown name of a list or mapping; later ones are never reported."""
    for index, name in enumerate(names):
        if name not in known:
            place = f"{path}.{name}" if isinstance(names, Mapping) else f"{path}[{index}]"
            yield _unknown_name(place, what, name, known, hint)
            return


def check_places(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check residency, pinned regions and traffic: a country, a group of countries or a provider's region."""
    known = catalog.places | country_names().keys()
    hint = "write an ISO country code, EEA, US, APAC, any, or a provider's region"
    for index, data in enumerate(needs.data):
        yield from _first_unknown(f"data[{index}].residency", "place", data.residency, known, hint)
    yield from _first_unknown("placement.regions", "place", needs.placement.regions or (), known, hint)
    for index, workload in enumerate(needs.workloads):
        yield from _first_unknown(f"workloads[{index}].traffic.regions", "place", workload.regions, known, hint)


def check_country_codes(needs: Needs, _catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check country codes by ISO 3166-1: a country is valid even if the catalog has no prices for it."""
    named = {"organisation.country": needs.organisation.country}
    if needs.placement.site is not None:
        named["placement.site.country"] = needs.placement.site.country
    named.update({f"placement.sites.{name}.country": site.country for name, site in needs.placement.sites.items()})
    for group, site in needs.sites.items():
        named.update({f"sites.{group}.countries[{index}]": code for index, code in enumerate(site.countries)})
    for path, code in named.items():
        if code not in country_names():
            message, hint = f"{quote_value(code)} is not a country code", "write the two capital letters of ISO 3166-1"
            yield NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint, partial(nearest_countries, code))


def check_providers_regulations_currency(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    hint = f"use one of: {textwrap.shorten(', '.join(sorted(catalog.providers)), 280, placeholder=' ...')}"
    yield from _first_unknown("placement.clouds", "provider", needs.placement.clouds or (), catalog.providers, hint)
    known = catalog.regulations.keys()
    hint = f"use one of: {', '.join(sorted(known))}"
    yield from _first_unknown("regulations", "regulation", needs.regulations, known, hint)
    currency = needs.budget.currency
    if currency not in catalog.currencies:
        hint = "write the three letters of ISO 4217; the catalog must have its exchange rate"
        yield _unknown_name("budget.currency", "currency", currency, catalog.currencies, hint)


def check_languages(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check languages by ISO 639-1; a language's name suggests its code."""
    held = {f"workloads[{index}]": one.languages for index, one in enumerate(needs.workloads)}
    held |= {f"data[{index}]": one.languages for index, one in enumerate(needs.data)}
    for path, languages in held.items():
        for index, code in enumerate(languages):
            if code not in catalog.languages:
                message, hint = (
                    f"{quote_value(code)} is not a language code",
                    "write the two small letters of ISO 639-1",
                )
                suggest = partial(_nearest_languages, code, catalog)
                yield NeedsProblem(NeedsCode.UNKNOWN_FACT, f"{path}.languages[{index}]", message, hint, suggest)
                break


def _nearest_languages(word: str, catalog: Catalog) -> tuple[str, ...]:
    """Return the codes that `word` may mean: by name (german, Deutsch), by its first part (de-DE), else by spelling."""
    names = {name: code for code, row in catalog.languages.items() for name in (row.name, row.own_name) if name}
    folded, first = word.casefold(), word[:2].casefold()
    exact = tuple(code for name, code in names.items() if name.casefold() == folded)
    if exact or (first in catalog.languages and not word[2:3].isalnum()):
        return exact[:1] or (first,)
    return tuple(dict.fromkeys(names[name] for name in nearest_spellings(word, names)))


def check_models(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Check models, and bases that are not workloads; stop at the first unknown, since look-ups are slow."""
    workloads = {workload.name for workload in needs.workloads}
    hosted = {model.id for model in catalog.hosted}
    for index, workload in enumerate(needs.workloads[:MAX_ITEMS]):
        path, model, base = f"workloads[{index}]", workload.model, workload.base
        own = catalog.specialist_models(workload.kind).keys()
        known = own or hosted | catalog.models.keys()
        if model is not None and model not in known and (own or not _is_known(model, catalog.models, catalog.model)):
            yield _unknown_name(f"{path}.model", "model", model, known, _MODELS_HINT)
            return
        if base is not None and base not in workloads and not _is_known(base, catalog.models, catalog.model):
            message = f"{quote_value(base)} is neither a workload of this file nor a model in the catalog"
            suggest = partial(nearest_spellings, base, workloads | catalog.models.keys())
            yield NeedsProblem(NeedsCode.UNKNOWN_FACT, f"{path}.base", message, _MODELS_HINT, suggest)
            return


def check_benchmarks(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    usual = sorted(row.id for row in catalog.benchmark_table.values() if row.estimated == "yes" and row.unit == "share")
    known, hint = catalog.benchmarks, f"use a benchmark such as {', '.join(usual)}"
    for index, workload in enumerate(needs.workloads):
        yield from _first_unknown(f"workloads[{index}].quality", "benchmark", workload.quality, known, hint)


def check_machines(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    # Every accelerator, and the names of their families.
    names = {name for row in catalog.accelerators for name in (row, row.partition("-")[0])}
    for index, name in enumerate((needs.placement.accelerators or ())[:MAX_MACHINES]):
        if not _is_known(name, catalog.accelerators, catalog.accelerator):
            path, hint = f"placement.accelerators[{index}]", "use an accelerator of the catalog, or its family"
            yield _unknown_name(path, "accelerator", name, names, hint)
            break
    for index, owned in enumerate(needs.placement.owned[:MAX_MACHINES]):
        path, match = f"placement.owned[{index}].machine", _MACHINE_PATTERN.fullmatch(owned.machine)
        if match is None:
            hint = "write number and name of the accelerators, as in `8x NAME`; `count` is the number of machines"
            yield NeedsProblem(NeedsCode.MALFORMED, path, f"{quote_value(owned.machine)} is not a machine", hint)
            break
        if not _is_known(match[1], catalog.accelerators, catalog.accelerator):
            yield _unknown_name(path, "accelerator", match[1], names, "write it as in `8x NAME`")
            break


def _is_known(name: str, ids: Collection[str], look_up: Callable[[str], object]) -> bool:
    """True if `name` is an id, or another spelling that `look_up` accepts."""
    if name in ids or len(name) > MAX_TEXT:
        return name in ids
    try:
        look_up(name)
    except CatalogError:
        return False
    return True

"""Names that the catalog must know: places, providers, accelerators, models, regulations ...

`text_checks` refuses names that are too long and lists that are too large; these are not looked up here.
"""

from __future__ import annotations

import re
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
_MODELS_HINT = "name a model of the catalog"


def _unknown_name(path: str, what: str, name: str, known: Collection[str], hint: str) -> NeedsProblem:
    message = f"the catalog knows no {what} {quote_value(name)}"
    return NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint, partial(nearest_spellings, name, known))


def _first_unknown(
    path: str, what: str, names: Iterable[str], known: Collection[str], hint: str
) -> Iterator[NeedsProblem]:
    """The first name of a list or mapping that is not known; the rest stands behind it in the file anyway."""
    for index, name in enumerate(names):
        if name not in known:
            below = f"{path}.{name}" if isinstance(names, Mapping) else f"{path}[{index}]"
            yield _unknown_name(below, what, name, known, hint)
            return


def check_places(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Countries by ISO code; residency, pinned regions and traffic by country, group or a provider's region."""
    known = catalog.places | country_names().keys()
    hint = "write an ISO country code, EEA, US, APAC, any, or a provider's region"
    for index, data in enumerate(needs.data):
        yield from _first_unknown(f"data[{index}].residency", "place", data.residency, known, hint)
    yield from _first_unknown("placement.regions", "place", needs.placement.regions or (), known, hint)
    for index, workload in enumerate(needs.workloads):
        yield from _first_unknown(f"workloads[{index}].traffic.regions", "place", workload.regions, known, hint)


def _accelerator_names(catalog: Catalog) -> set[str]:
    """Every accelerator, and what families of them are called."""
    return {name for row in catalog.accelerators for name in (row, row.partition("-")[0])}


def check_country_codes(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """`catalog` is not asked: a country exists whether or not it has prices."""
    del catalog
    named = {"organisation.country": needs.organisation.country}
    if needs.placement.site is not None:
        named["placement.site.country"] = needs.placement.site.country
    for group, site in needs.sites.items():
        named.update({f"sites.{group}.countries[{index}]": code for index, code in enumerate(site.countries)})
    for path, code in named.items():
        if code not in country_names():
            hint = "write the two capital letters of ISO 3166-1"
            message = f"{quote_value(code)} is no country code"
            yield NeedsProblem(NeedsCode.UNKNOWN_FACT, path, message, hint, partial(nearest_countries, code))


def check_providers_regulations_currency(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    hint = f"known: {', '.join(sorted(catalog.providers))}"
    yield from _first_unknown("placement.clouds", "provider", needs.placement.clouds or (), catalog.providers, hint)
    known = catalog.regulations.keys()
    hint = f"known: {', '.join(sorted(known))}"
    yield from _first_unknown("regulations", "regulation", needs.regulations, known, hint)
    currency = needs.budget.currency
    if currency not in catalog.currencies:
        hint = "write the three letters of ISO 4217; the catalog must hold its exchange rate"
        yield _unknown_name("budget.currency", "currency", currency, catalog.currencies, hint)


def check_models(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    """Models by name, and bases that are no workload. The first unknown one ends it: each look-up tries spellings."""
    workloads = {workload.name for workload in needs.workloads}
    hosted = {model.id for model in catalog.hosted}
    for index, workload in enumerate(needs.workloads[:MAX_ITEMS]):
        path = f"workloads[{index}]"
        if workload.model is not None and not _is_model(workload.model, catalog, hosted):
            yield _unknown_name(f"{path}.model", "model", workload.model, catalog.models.keys() | hosted, _MODELS_HINT)
            return
        base = workload.base
        if base is not None and base not in workloads and not _is_model(base, catalog):
            message = f"{quote_value(base)} is neither a workload of this file nor a model of the catalog"
            suggest = partial(nearest_spellings, base, workloads | catalog.models.keys())
            yield NeedsProblem(NeedsCode.UNKNOWN_FACT, f"{path}.base", message, _MODELS_HINT, suggest)
            return


def check_benchmarks(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    known, hint = catalog.benchmarks, f"known: {', '.join(sorted(catalog.benchmarks))}"
    for index, workload in enumerate(needs.workloads):
        yield from _first_unknown(f"workloads[{index}].quality", "benchmark", workload.quality, known, hint)


def _is_model(name: str, catalog: Catalog, hosted: Collection[str] = ()) -> bool:
    return name in hosted or _is_known(name, catalog.models, catalog.model)


def check_machines(needs: Needs, catalog: Catalog) -> Iterator[NeedsProblem]:
    for index, name in enumerate((needs.placement.accelerators or ())[:MAX_MACHINES]):
        if not _is_accelerator(name, catalog):
            path, hint = f"placement.accelerators[{index}]", "name an accelerator of the catalog, or its family"
            yield _unknown_name(path, "accelerator", name, _accelerator_names(catalog), hint)
            break
    for index, owned in enumerate(needs.placement.owned[:MAX_MACHINES]):
        path = f"placement.owned[{index}].machine"
        match = _MACHINE_PATTERN.fullmatch(owned.machine)
        if match is None:
            hint = "write how many and which accelerator, as in `8x NAME`; `count` says how many machines"
            yield NeedsProblem(NeedsCode.MALFORMED, path, f"{quote_value(owned.machine)} is no machine", hint)
            break
        if not _is_accelerator(match[1], catalog):
            yield _unknown_name(path, "accelerator", match[1], _accelerator_names(catalog), "write it as in `8x NAME`")
            break


def _is_accelerator(name: str, catalog: Catalog) -> bool:
    return _is_known(name, catalog.accelerators, catalog.accelerator)


def _is_known(name: str, ids: Collection[str], look_up: Callable[[str], object]) -> bool:
    """By its id, or in another spelling that `look_up` takes."""
    if name in ids or len(name) > MAX_TEXT:
        return name in ids
    try:
        look_up(name)
    except CatalogError:
        return False
    return True

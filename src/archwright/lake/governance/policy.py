"""Policies of data sets: owner, purpose, lawful basis, classification, residency, retention, readers.

Every change appends a record to the store, so the policy of each past moment is known. A refined data set inherits the
strictest values of its sources, unless its own policy names a source in `released`.
"""

import csv
import difflib
import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from archwright.access.tables import check_name
from archwright.contract.record import Record, replace
from archwright.errors import DataError, ErrorLocation
from archwright.lake.tables.version_index import VERSIONS
from archwright.store import RecordTable, Store

DEFAULT_TENANT = "default"
ANY_COUNTRY, NO_COUNTRY = "any", "none"
SHOWN_COUNTRIES = 6
Classification = Literal["public", "internal", "confidential", "restricted"]
CLASSIFICATIONS: tuple[Classification, ...] = get_args(Classification)
_COUNTRY = re.compile(r"[A-Z]{2}")


class DatasetPolicy(Record):
    """The policy of a data set from `at` on, set by `by`; an empty field is not stated.

    `residency`: alpha-2 codes of countries, or "any". `readers`: all tenants that may read the data set, its own
    `tenant` among them. `released`: source data sets with a policy that no longer applies, for example because their
    personal data were removed. `consent`: how consent was given, and where its record is.
    """

    dataset: str
    tenant: str = ""
    owner: str = ""
    purpose: str = ""
    lawful_basis: str = ""
    classification: Classification | Literal[""] = ""
    residency: tuple[str, ...] = ()
    retention_days: int | None = None
    readers: tuple[str, ...] = ()
    licence: str = ""
    consent: str = ""
    released: tuple[str, ...] = ()
    at: float = 0.0
    by: str = ""


POLICIES = RecordTable("dataset_policies", DatasetPolicy, index=("dataset",))


class DatasetAccessError(DataError):
    """A tenant may not read a data set (AW-DATA-53); the message is the same for a data set that does not exist."""

    http_status = 403


@cache
def read_lawful_bases() -> dict[str, str]:
    """Id -> title, the strictest first: consent can be withdrawn at any time."""
    with open(Path(__file__).with_name("lawful_bases.csv"), encoding="utf-8", newline="") as file:
        return {row["id"]: row["title"] for row in csv.DictReader(file)}


def read_stated_policy(store: Store, dataset: str) -> DatasetPolicy:
    """The newest record of the data set, without the policies of its sources."""
    found = store.rows(POLICIES, {"dataset": dataset}, newest_first=True, limit=1)
    return found[0] if found else DatasetPolicy(dataset=dataset)


def read_policy_history(store: Store, dataset: str) -> list[DatasetPolicy]:
    return store.rows(POLICIES, {"dataset": dataset})


def append_policy(store: Store, policy: DatasetPolicy) -> None:
    """Make `policy` the policy of its data set, which need not exist yet.

    Raises DataError AW-DATA-49 for an invalid value, UsageError AW-USE-30 for an invalid name of a tenant.
    """
    _check_choice("lawful_basis", policy.lawful_basis, tuple(read_lawful_bases()))
    _check_choice("classification", policy.classification, CLASSIFICATIONS)
    for place in policy.residency:
        if place != ANY_COUNTRY and not _COUNTRY.fullmatch(place):
            raise _value_error("residency", place, "use codes of countries such as DE, or any")
    if policy.retention_days is not None and policy.retention_days < 1:
        raise _value_error("retention_days", policy.retention_days, "use at least 1 day")
    for name in (*filter(None, (policy.tenant,)), *policy.readers):
        check_name(name, "tenant")
    if policy.readers:
        tenant = policy.tenant or read_policy(store, policy.dataset).tenant
        policy = replace(policy, readers=tuple(sorted({*policy.readers, tenant})))
    store.append(POLICIES, [policy])


def assign_tenant(store: Store, dataset: str, tenant: str, at: float, by: str) -> None:
    """Give a new data set to a tenant. Raises DataError AW-DATA-54 if it belongs to another tenant."""
    stated = read_stated_policy(store, dataset)
    owner = read_policy(store, dataset).tenant
    if tenant == owner:
        return
    if stated.tenant or store.rows(VERSIONS, {"dataset": dataset}, limit=1):
        message = f"the data set {dataset} belongs to the tenant {owner}"
        hint = f"choose another name, or move it: archwright data policy {dataset} --tenant {tenant}"
        raise DataError("AW-DATA-54", message, where=ErrorLocation(field="tenant"), hint=hint)
    append_policy(store, replace(stated, tenant=tenant, at=at, by=by))


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value and value not in choices:
        near = tuple(difflib.get_close_matches(value, choices, 3, 0.3))
        raise _value_error(field, value, f"use one of {', '.join(choices)}", near)


def _value_error(field: str, value: object, hint: str, near: tuple[str, ...] = ()) -> DataError:
    message = f"invalid {field.replace('_', ' ')} of a data set: {value!r}"
    return DataError("AW-DATA-49", message, where=ErrorLocation(field=field), hint=hint, nearest=near)


def read_policy(store: Store, dataset: str, sources: Sequence[str] = ()) -> DatasetPolicy:
    """The policy in force: the stated one, made as strict as those of the data sets it was refined from.

    `sources` are further data sets from which rows are about to be written into it.
    """
    return _resolve_policy(store, dataset, sources, frozenset())


def _resolve_policy(store: Store, dataset: str, sources: Sequence[str], below: frozenset[str]) -> DatasetPolicy:
    own = read_stated_policy(store, dataset)
    names = dict.fromkeys((*sources, *_list_sources(store, dataset)))
    followed = [name for name in names if name not in {*own.released, *below, dataset}]
    above = [_resolve_policy(store, name, (), below | {dataset}) for name in followed]
    tenant = _first_stated("tenant", own, above) or DEFAULT_TENANT
    granted = own.readers or ((own.tenant,) if own.tenant else ())
    allowed = [set(readers) for readers in (granted, *(policy.readers for policy in above)) if readers] or [{tenant}]
    bases = [policy.lawful_basis for policy in above if policy.lawful_basis]
    days = [policy.retention_days for policy in (own, *above) if policy.retention_days is not None]
    levels = [policy.classification for policy in (own, *above) if policy.classification]
    return replace(
        own,
        tenant=tenant,
        **{field: _first_stated(field, own, above) for field in ("owner", "purpose", "licence", "consent")},
        lawful_basis=own.lawful_basis or min(bases, key=tuple(read_lawful_bases()).index, default=""),
        classification=max(levels, key=CLASSIFICATIONS.index, default=""),
        residency=_intersect_residencies([policy.residency for policy in (own, *above) if policy.residency]),
        retention_days=min(days, default=None),
        readers=tuple(sorted(set.intersection(*allowed))),
    )


def _list_sources(store: Store, dataset: str) -> list[str]:
    """The data sets from which the versions of a data set were refined."""
    found = store.columns(VERSIONS, ("parent",), {"dataset": dataset, "action": "refine"})
    return [str(parent).partition("@")[0] for (parent,) in found]


def _first_stated(field: str, own: DatasetPolicy, above: Sequence[DatasetPolicy]) -> str:
    return next((value for policy in (own, *above) if (value := getattr(policy, field))), "")


def _intersect_residencies(stated: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The countries inside all residencies; () if none is stated, NO_COUNTRY if they have no country in common."""
    bounds = [set(residency) for residency in stated if ANY_COUNTRY not in residency]
    if not bounds:
        return (ANY_COUNTRY,) if stated else ()
    return tuple(sorted(set.intersection(*bounds))) or (NO_COUNTRY,)


def check_location(store: Store, dataset: str, country: str, sources: Sequence[str] = ()) -> None:
    """Refuse to write rows of a data set in a place outside its residency; an unknown place ("") is outside.

    `sources` are the data sets that the rows come from. Raises DataError AW-DATA-48.
    """
    residency = read_policy(store, dataset, sources).residency
    if is_inside_residency(country, residency):
        return
    place = f"this home is in {country}" if country else "the country of this home is unknown"
    stated = ", ".join(residency[:SHOWN_COUNTRIES]) + (", ..." if len(residency) > SHOWN_COUNTRIES else "")
    message = f"the residency of {dataset} is {stated}, and {place}; nothing was written"
    hint = "use a home inside the residency"
    if not country:
        hint = "state where the home is: set `residency` in archwright.toml of the home, or ARCHWRIGHT_RESIDENCY"
    raise DataError("AW-DATA-48", message, where=ErrorLocation(field=dataset), hint=hint)


def is_inside_residency(country: str, residency: Collection[str]) -> bool:
    """True if data of the residency may lie in the country; without a stated residency they may lie anywhere."""
    return not residency or ANY_COUNTRY in residency or (country in residency and country != NO_COUNTRY)


def is_readable(store: Store, dataset: str, tenant: str) -> bool:
    return tenant in read_policy(store, dataset).readers


def access_error(dataset: str, tenant: str) -> DatasetAccessError:
    """Also for a data set that does not exist, so that its name tells nothing."""
    message = f"tenant {tenant} may not read a data set {dataset!r}"
    hint = f"grant access on the machine of the home: archwright data policy {dataset} --reader {tenant}"
    return DatasetAccessError("AW-DATA-53", message, where=ErrorLocation(field=dataset), hint=hint)


def readable_datasets(store: Store, tenant: str) -> tuple[str, ...]:
    """The names of all data sets that the tenant may read, sorted."""
    names = sorted({str(name) for (name,) in store.columns(VERSIONS, ("dataset",))})
    return tuple(name for name in names if is_readable(store, name, tenant))

"""Governance of data sets: policies, search of the catalogue, access export, retention."""

import difflib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from archwright import settings
from archwright.api.context import open_home, record_read, write_audit_record
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.record import Record, as_dict, replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake import dataset_card, retention
from archwright.lake.dataset_card import DatasetCard
from archwright.lake.governance import policy as policies
from archwright.lake.governance.policy import DatasetPolicy
from archwright.lake.governance.subject_export import SubjectExport, export_subject
from archwright.lake.ingestion import check_dataset_name
from archwright.lake.retention import RetentionReport
from archwright.lake.tables import version_index


class PolicyChange(Record):
    """Fields of a policy to change; None leaves a field as it is, an empty text clears it."""

    owner: str | None = None
    purpose: str | None = None
    lawful_basis: str | None = None
    classification: str | None = None
    residency: tuple[str, ...] | None = None
    retention_days: int | None = None
    reader: tuple[str, ...] | None = None
    tenant: str | None = None
    licence: str | None = None
    consent: str | None = None
    release: tuple[str, ...] | None = None


class PolicyView(Record):
    """The policy in force, which sources of a refined data set may make stricter, and every stated policy."""

    in_force: DatasetPolicy
    history: tuple[DatasetPolicy, ...]


class CatalogueEntry(Record):
    """A data set that matches a search: its newest version and its policy."""

    dataset: str
    version: str
    rows: int
    tenant: str
    owner: str
    purpose: str
    classification: str
    personal_data: dict[str, int]
    at: float


class CatalogueFilter(Record):
    """Conditions of a search besides its words; an empty text is no condition."""

    tenant: str = ""
    classification: str = ""
    column_kind: str = ""
    personal_data: str = ""


def change_policy(name: str, change: PolicyChange) -> PolicyView:
    with open_home() as (_settings, home, store):
        stated = {field: value for field, value in as_dict(change).items() if value is not None}
        if stated:
            check_dataset_name(name)
            policies.append_policy(store, _change_policy(home, policies.read_stated_policy(store, name), stated))
            write_audit_record(store, "data.policy", name, policies.read_policy(store, name).tenant)
        else:
            record_read("data.policy.show", name)
        history = policies.read_policy_history(store, name)
        if not history:
            version_index.find_version(store, name)
        return PolicyView(in_force=policies.read_policy(store, name), history=tuple(history))


def _change_policy(home: Home, before: DatasetPolicy, stated: dict[str, object]) -> DatasetPolicy:
    lists = {"reader": "readers", "release": "released", "residency": "residency"}
    changes: dict[str, object] = {field: value for field, value in stated.items() if field not in lists}
    for field, target in lists.items():
        if isinstance(value := stated.get(field), Iterable):
            changes[target] = tuple(text for text in value if text)
    if isinstance(places := changes.get("residency"), tuple):
        changes["residency"] = _list_countries(load_catalog(home), places)
    if changes.get("retention_days") == 0:
        changes["retention_days"] = None
    if "tenant" in changes and "readers" not in changes:
        changes["readers"] = tuple(name for name in before.readers if name != before.tenant)
    return replace(before, **changes, at=time.time(), by=settings.read_os_user())


def _list_countries(catalog: Catalog, places: tuple[str, ...]) -> tuple[str, ...]:
    """The countries of countries and groups of countries, as a plan states them; "any" stays."""
    found: set[str] = set()
    for place in places:
        members = {code for code, row in catalog.countries.items() if place in (code, *row.places)}
        if not members and place != policies.ANY_COUNTRY:
            choices = sorted({*catalog.countries, *catalog.country_groups, policies.ANY_COUNTRY})
            near = tuple(difflib.get_close_matches(place, choices, 3, 0.3))
            where, hint = ErrorLocation(field="residency"), f"use one of {', '.join(choices)}"
            raise DataError("AW-DATA-49", f"unknown place: {place!r}", where=where, hint=hint, nearest=near)
        found |= members or {place}
    return (policies.ANY_COUNTRY,) if policies.ANY_COUNTRY in found else tuple(sorted(found))


def find_datasets(words: str, filters: CatalogueFilter) -> tuple[CatalogueEntry, ...]:
    with open_home() as (_settings, home, store):
        cards = [dataset_card.build_card(home, store, version) for version in version_index.list_newest_versions(store)]
        return tuple(_build_entry(found) for found in cards if _matches(found, words.casefold().split(), filters))


def _matches(found: DatasetCard, words: Iterable[str], filters: CatalogueFilter) -> bool:
    text = dataset_card.format_card(found).casefold()
    return (
        all(word in text for word in words)
        and filters.tenant in ("", *found.policy.readers)
        and filters.classification in ("", found.policy.classification)
        and filters.column_kind in ("", *found.version.columns.values())
        and filters.personal_data in ("", *found.personal_data)
    )


def _build_entry(found: DatasetCard) -> CatalogueEntry:
    version, rules = found.version, found.policy
    return CatalogueEntry(
        dataset=version.dataset,
        version=version.id,
        rows=version.rows,
        tenant=rules.tenant,
        owner=rules.owner,
        purpose=rules.purpose,
        classification=rules.classification,
        personal_data=found.personal_data,
        at=version.at,
    )


def export_rows(identifiers: Sequence[str], output: str, all_versions: bool) -> SubjectExport:
    with open_home() as (_settings, home, store):
        there = [version for version in version_index.list_versions(store) if version.dropped_at is None]
        versions = there if all_versions else version_index.list_newest_versions(store)
        made = export_subject(home, identifiers, versions, Path(output), time.time())
        write_audit_record(store, "data.export", f"{made.rows} rows of {len(made.versions)} versions")
        return made


def retain_versions(dry_run: bool) -> RetentionReport:
    with open_home() as (_settings, home, store):
        now = time.time()
        expired = retention.find_expired_versions(store, now)
        if dry_run:
            record_read("data.retain.plan")
        else:
            retention.delete_versions(
                home, store, expired, now, lambda one: write_audit_record(store, "data.retain", one.version, one.tenant)
            )
        return RetentionReport(expired=tuple(expired), dry_run=dry_run)

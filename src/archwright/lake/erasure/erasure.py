"""Erase a person from the home: search, plan, journal, erase, prove, receipt.

Every step can be repeated. The journal is written before the first change, so an erasure that was killed goes on with
the same record ids when it is run again, and it names in its receipt what the first run found.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from archwright import __version__
from archwright.contract.record import Record, replace
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.journal import report_step
from archwright.lake.dataset_card import PERSONAL_KINDS
from archwright.lake.erasure import lake_stores, receipt, record_stores, table_rows, version_records
from archwright.lake.erasure.file_scan import ScanResult, scan_files
from archwright.lake.erasure.lake_stores import ErasureScope
from archwright.lake.erasure.own_files import OwnFileDecoder
from archwright.lake.erasure.receipt import ErasureJournal, FoundPlace, TrainedModel, VersionState
from archwright.lake.erasure.subject import Subject
from archwright.lake.governance.policy import DEFAULT_TENANT, POLICIES
from archwright.lake.personal_data.phone_numbers import format_phone
from archwright.lake.steps.pseudonyms import load_pseudonym_key, make_pseudonym
from archwright.lake.tables import version_index
from archwright.lake.tables.dataset_lock import lock_lake
from archwright.lake.text_steps.redaction import Redact
from archwright.store import Store

# More rows than both need a confirmation: the identifier may name more than one person.
MOST_ROWS, MOST_SHARE = 100, 0.01
DIGEST_TENANT = "\0erasure"  # no tenant has this name


class UnknownSubjectError(DataError):
    """Nothing in the home names the person (AW-DATA-57); nothing was written."""

    exit_status, http_status = 13, 404


class ErasureOutcome(Record):
    """The places that name the person; `receipt` is the file of the signed receipt, None for a dry run.

    `rows` are counted in each version; if they are many, `confirm` asks for their number. `versions` held the person;
    `models` were trained on them.
    """

    rows: int
    found: tuple[FoundPlace, ...]
    versions: tuple[str, ...]
    models: tuple[TrainedModel, ...]
    confirm: bool = False
    scan: ScanResult | None = None
    receipt: str | None = None


class ErasureRequest(NamedTuple):
    """`expect_rows` confirms the number of rows if it is large. `list_models` names the models of versions.

    `on_erased` gets the id of the receipt when it is complete.
    """

    identifiers: Sequence[str]
    dry_run: bool = False
    expect_rows: int | None = None
    list_models: Callable[[Iterable[str]], tuple[TrainedModel, ...]] = lambda _versions: ()
    on_erased: Callable[[str], None] = lambda _receipt: None
    now: Callable[[], float] = time.time


def erase_subject(home: Home, store: Store, request: ErasureRequest) -> ErasureOutcome:
    """Erase the person with the identifiers, or plan it.

    Raises DataError AW-DATA-56 (identifier), -58 (too many rows), -59 (not proven), UnknownSubjectError AW-DATA-57.
    """
    subject = Subject(request.identifiers, _make_pseudonyms(home, store, request.identifiers))
    with lock_lake(home, shared=request.dry_run):
        journal = _read_journal(home, subject)
        report_step("searching tables")
        subject.add_records(bytes.fromhex(text) for text in (journal.record_ids if journal else ()))
        subject.add_records(table_rows.find_record_ids(home, subject))
        scope = ErasureScope(home, store, subject)
        stores = [*lake_stores.list_lake_stores(scope), *(make(scope) for make in record_stores.RECORD_STORES)]
        found = _merge_places((*(journal.found if journal else ()), *(place for one in stores for place in one.find())))
        if not found and journal is None:
            hint = "check the spelling, and give each identifier of the person: --subject E-MAIL --subject NAME"
            message = "nothing in this home names the person; nothing was changed"
            raise UnknownSubjectError("AW-DATA-57", message, where=ErrorLocation(field="subject"), hint=hint)
        rows = {place.place: place.count for place in found if place.store == lake_stores.TableStore.name}
        outcome = ErasureOutcome(
            rows=sum(rows.values()),
            found=found,
            versions=tuple(name for name in rows if "@" in name),
            models=request.list_models(rows),
            confirm=_needs_confirmation(store, sum(rows.values())),
        )
        if request.dry_run:
            return outcome
        if journal is None and outcome.confirm and outcome.rows != request.expect_rows:
            message = f"the identifiers name {outcome.rows:,} rows in all versions; nothing was changed"
            hint = f"look at the plan (--dry-run); if they all are about the person, add --expect-rows {outcome.rows}"
            raise DataError("AW-DATA-58", message, where=ErrorLocation(field="subject"), hint=hint)
        journal = _write_journal(home, store, subject, journal, found)
        for one in stores:
            report_step(f"erasing: {one.name}")
            one.erase()
        version_records.update_records(home, store, journal)
        store.purge_deleted_rows()
        report_step("searching every file of the home")
        decoders = (*record_stores.DECODERS, partial(lake_stores.decode_shard, scope), OwnFileDecoder(home).decode)
        scan = scan_files(home.root, subject, decoders)
        return _finish(home, store, request, journal, replace(outcome, scan=scan))


def _make_pseudonyms(home: Home, store: Store, identifiers: Sequence[str]) -> set[str]:
    """The pseudonyms of the identifiers for every tenant and kind; none if the home has no secret of pseudonyms."""
    if not home.pseudonym_secret.exists():
        return set()
    tenants = {"", DEFAULT_TENANT, *(str(tenant) for (tenant,) in store.columns(POLICIES, ("tenant",)))}
    keys = [load_pseudonym_key(home, tenant) for tenant in tenants]
    texts = {*identifiers, *(format_phone(text, Redact().regions) for text in identifiers)}
    return {make_pseudonym(key, kind, text) for key in keys for kind in PERSONAL_KINDS for text in texts}


def _digest_subject(home: Home, subject: Subject) -> str:
    return subject.digest(load_pseudonym_key(home, DIGEST_TENANT))


def _read_journal(home: Home, subject: Subject) -> ErasureJournal | None:
    return receipt.read_journal(home, _digest_subject(home, subject)) if home.pseudonym_secret.exists() else None


def _merge_places(places: Iterable[FoundPlace]) -> tuple[FoundPlace, ...]:
    """Each place once, with its largest count: a repeated erasure finds less than the first run."""
    largest = {(place.store, place.place): place for place in sorted(places, key=lambda place: place.count)}
    return tuple(largest[key] for key in sorted(largest))


def _needs_confirmation(store: Store, rows: int) -> bool:
    total = sum(version.rows for version in version_index.list_versions(store))
    return rows > max(MOST_ROWS, MOST_SHARE * total)


def _write_journal(
    home: Home, store: Store, subject: Subject, journal: ErasureJournal | None, found: tuple[FoundPlace, ...]
) -> ErasureJournal:
    journal = ErasureJournal(
        id=journal.id if journal else f"erasure-{uuid4().hex[:16]}",
        subject=_digest_subject(home, subject),
        record_ids=tuple(sorted(subject.hex_ids)),
        found=found,
        versions={**_read_states(store), **(journal.versions if journal else {})},
    )
    receipt.write_journal(home, journal)
    return journal


def _finish(
    home: Home, store: Store, request: ErasureRequest, journal: ErasureJournal, outcome: ErasureOutcome
) -> ErasureOutcome:
    """Sign the receipt with the result of the scan, and remove the journal. Raises DataError AW-DATA-59."""
    scan = outcome.scan
    assert scan is not None
    after = _read_states(store)
    made = receipt.ErasureReceipt(
        id=journal.id,
        at=request.now(),
        program=f"archwright {__version__}",
        subject=journal.subject,
        found=outcome.found,
        before={name: journal.versions[name] for name in outcome.versions},
        after={name: after[name] for name in outcome.versions},
        models=outcome.models,
        proven=scan.clean,
        scan=scan,
    )
    receipt.sign_receipt(home, made)
    path = receipt.receipt_path(home, made.id)
    request.on_erased(made.id)
    receipt.journal_path(home, journal.subject).unlink()
    outcome = replace(outcome, receipt=str(path))
    if not scan.clean:
        places = ", ".join(f"{hit.place} ({hit.how})" for hit in scan.hits[:3])
        message = f"the person was erased, but {len(scan.hits)} files still name the person: {places}"
        hint = f"read the receipt and remove these files or their content: {path}"
        error = DataError("AW-DATA-59", message, where=ErrorLocation(str(home.root)), hint=hint)
        error.result = outcome
        raise error
    return outcome


def _read_states(store: Store) -> dict[str, VersionState]:
    versions = version_index.list_versions(store)
    return {one.id: VersionState(rows=one.rows, content_sha256=one.content_sha256) for one in versions}

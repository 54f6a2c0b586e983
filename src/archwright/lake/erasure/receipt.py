"""The signed receipt of an erasure, and the journal that lets a killed erasure go on.

Neither holds an identifier in clear. Both hold a digest of the identifiers with a key of the home, so only this home
can tell whether a receipt is about a person. The journal has the record ids and what was found before the first change;
it is removed when the receipt is complete.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from archwright.access.audit_checkpoints import load_signing_key
from archwright.contract.record import Record, replace
from archwright.crypto.signing import is_signed_by
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_json
from archwright.lake.erasure.file_scan import ScanResult

R = TypeVar("R", bound=Record)
STATEMENTS = (
    "The audit log is signed and is never rewritten. It names users by ids; the erasure deletes the name of an id.",
    "Audit records that a program before 0.1 wrote may hold names of users, and records hold addresses of clients.",
    "Backups, exports and source files outside this home are not erased. Remove the person there, or the next ingest "
    "of a changed file reads the person again.",
    "Models that were trained on an erased row may remember it. Each is listed; none was changed or trained again.",
    "Quarantined rows are stored as excerpts of at most 200 characters; an excerpt without an identifier stays.",
)


class FoundPlace(Record):
    """The `count` of rows, lines or files of a `store` that named the person or descend from such a row."""

    store: str
    place: str
    count: int


class VersionState(Record):
    rows: int
    content_sha256: str


class TrainedModel(Record):
    """A run, and its model version if there is one, that was trained on a version that held the person."""

    run: str
    model: str
    dataset_version: str
    serving: bool
    follow_up: str


class ErasureJournal(Record):
    """A started erasure; `versions` are the states of all versions before it."""

    id: str
    subject: str
    record_ids: tuple[str, ...]
    found: tuple[FoundPlace, ...]
    versions: dict[str, VersionState]


class ErasureReceipt(Record):
    """`subject` is the keyed digest of the identifiers; `proven` is True if the scan found nothing any more.

    `before` and `after` are the states of the versions that held the person."""

    kind: str = "archwright-erasure-receipt"
    id: str
    at: float
    program: str
    subject: str
    found: tuple[FoundPlace, ...]
    before: dict[str, VersionState]
    after: dict[str, VersionState]
    models: tuple[TrainedModel, ...]
    proven: bool
    scan: ScanResult
    statements: tuple[str, ...] = STATEMENTS
    public_key: str = ""
    signature: str = ""


def journal_path(home: Home, subject: str) -> Path:
    return home.lake / "erasures" / f"{subject[:32]}.pending.json"


def read_journal(home: Home, subject: str) -> ErasureJournal | None:
    """The journal of the subject with this digest, None without one. Raises DataError AW-DATA-60."""
    path = journal_path(home, subject)
    return _read_record(path, ErasureJournal) if path.exists() else None


def write_journal(home: Home, journal: ErasureJournal) -> None:
    home.folder("lake", "erasures")
    write_json(journal_path(home, journal.subject), journal)


def receipt_path(home: Home, erasure: str) -> Path:
    return home.lake / "erasures" / f"{erasure}.json"


def list_receipts(home: Home) -> list[Path]:
    return sorted((home.lake / "erasures").glob("erasure-*.json"))


def sign_receipt(home: Home, receipt: ErasureReceipt) -> ErasureReceipt:
    """Sign the receipt with the key of the audit log, and write it."""
    key = load_signing_key(home)
    receipt = replace(receipt, public_key=key.public_key, signature="")
    signed = replace(receipt, signature=key.sign(msgspec.json.encode(receipt)))
    write_json(receipt_path(home, receipt.id), signed)
    return signed


def verify_receipt(path: Path, public_keys: Collection[str]) -> ErasureReceipt:
    """Read a receipt and check that one of `public_keys` (hex) signed it; the key in the receipt proves nothing.

    Raises DataError AW-DATA-60 (not readable), -61 (altered), -82 (signed by another key)."""
    receipt, where = _read_record(path, ErasureReceipt), ErrorLocation(str(path))
    unsigned = msgspec.json.encode(replace(receipt, signature=""))
    if not is_signed_by(receipt.public_key, unsigned, receipt.signature):
        message, hint = "the receipt was altered: its signature is false", "use the file that the erasure wrote"
        raise DataError("AW-DATA-61", message, where=where, hint=hint)
    if receipt.public_key not in public_keys:
        message = f"no stated key signed the receipt; the signer has the key {receipt.public_key[:64]}"
        hint = "get the key of the home that erased from its operator, and state it: data receipt FILE --public-key KEY"
        raise DataError("AW-DATA-82", message, where=where, hint=hint)
    return receipt


def _read_record(path: Path, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"this is no file of an erasure, or it is damaged: {error}"
        hint = "name a receipt of the folder lake/erasures in the home"
        raise DataError("AW-DATA-60", message, where=ErrorLocation(str(path)), hint=hint) from error

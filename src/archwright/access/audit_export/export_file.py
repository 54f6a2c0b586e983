"""The audit log as a file: records of the store, and in some formats the signed checkpoints of the home."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from archwright.access.audit_checkpoints import decode_checkpoint, read_chain_start
from archwright.access.audit_delivery.time_stamps import read_time_stamp_lines
from archwright.access.audit_export import standalone_verifier
from archwright.access.audit_export.ocsf_events import encode_event
from archwright.access.audit_export.syslog_messages import encode_checkpoint_message, encode_record_message
from archwright.access.audit_log import AuditEvent
from archwright.access.record_chain import decode_record_lines, encode_record_lines, read_chained_blocks
from archwright.contract.record import Record
from archwright.home import Home, write_atomic
from archwright.monitor.user_names import read_user_names
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store

JSONL = "jsonl"
OCSF = "ocsf"
RFC5424 = "rfc5424"
FORMATS = (JSONL, OCSF, RFC5424)


class _StoredEvent(AuditEvent, omit_defaults=True, forbid_unknown_fields=False):
    """A record; fields of its link to the chain of its writer are passed over."""


# The module itself has no entry, so that no child process of the platform runs it.
_VERIFIER_ENTRY = b"\n\nsys.exit(main())\n"
_STORED_DECODER = msgspec.json.Decoder(_StoredEvent)


class AuditExport(Record):
    """An exported `file` with so many `records`, `checkpoints` and `time_stamps`; `sha256` of its bytes."""

    file: str
    format: str
    records: int
    checkpoints: int
    time_stamps: int
    sha256: str


class _ExportedLines:
    """The lines of an export, which are counted while they are written."""

    def __init__(self, store: Store, home: Home, form: str) -> None:
        self.records = 0
        self.checkpoints = 0
        self.time_stamps = 0
        self._store = store
        self._home = home
        self._form = form
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for line in self._read_lines():
            data = line + b"\n"
            self._digest.update(data)
            yield data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _read_lines(self) -> Iterator[bytes]:
        store_name = read_store_name(self._store)
        names = read_user_names(self._store)
        for block in read_chained_blocks(self._store, read_chain_start(self._store, self._home)):
            for line in encode_record_lines(store_name, block):
                self.records += 1
                yield self._encode_record(line, names)
        if self._form != OCSF:
            yield from self._read_checkpoints(store_name)

    def _encode_record(self, line: bytes, names: dict[str, str]) -> bytes:
        if self._form == JSONL:
            return line
        (record_line,) = decode_record_lines((line,))
        event = _STORED_DECODER.decode(record_line.record)
        if self._form == OCSF:
            return encode_event(event, record_line, names)
        return encode_record_message(event, record_line.number, line)

    def _read_checkpoints(self, store_name: str) -> Iterator[bytes]:
        path = self._home.audit_checkpoints
        if not path.exists():
            return
        with open(path, "rb") as file:
            for stored_line in file:
                checkpoint = decode_checkpoint(stored_line)
                if checkpoint is None or checkpoint.store != store_name:
                    continue
                self.checkpoints += 1
                line = stored_line.rstrip(b"\n")
                yield line if self._form == JSONL else encode_checkpoint_message(checkpoint.at, line)
        if self._form == JSONL:
            for line in read_time_stamp_lines(self._home, store_name):
                self.time_stamps += 1
                yield line


def write_export(store: Store, home: Home, path: Path, *, form: str) -> AuditExport:
    """Write the log to a file that only this user may read. Raises StoreError, OSError.

    `form`: one of FORMATS. Records that no process has compacted into the store yet are not in it.
    """
    lines = _ExportedLines(store, home, form)
    write_atomic(path, iter(lines))
    return AuditExport(
        file=str(path),
        format=form,
        records=lines.records,
        checkpoints=lines.checkpoints,
        time_stamps=lines.time_stamps,
        sha256=lines.sha256,
    )


def write_verifier(path: Path) -> None:
    """Write the program that verifies an export with the standard library of Python."""
    source = Path(standalone_verifier.__file__).read_bytes()
    write_atomic(path, source + _VERIFIER_ENTRY, mode=0o755)

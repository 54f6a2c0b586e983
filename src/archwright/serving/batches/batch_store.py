"""Files and batches of one tenant: the objects that clients see, as JSON files in a folder of the home.

A file is its bytes (`ID.jsonl`) and its object (`ID.json`, written last). Results have an index (`ID.index`). A batch
is its object, and while it runs a log of usage records (`ID.log`) and a spare (`ID.spare`), which becomes the mark of a
cancelled batch (`ID.cancel`). The end of a batch frees the spare, so a full disk can stop neither a cancellation nor
the end. `open_batches` lists those that are not done.
Design: no rows of the database, so batches are backed up, moved and erased with their home. Only the process with the
lock writes the object of a batch. An id begins with the time of its creation, so names sort by time.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from archwright.contract.record import Record, replace
from archwright.home import Home, write_json
from archwright.serving.batches.open_batches import OPEN_FOLDER, OpenBatch, list_open_batches, read_model
from archwright.serving.batches.result_file import ReadableFile
from archwright.serving.batches.tenant_space import DATA_SUFFIX, TenantSpace, create_file
from archwright.serving.http.errors import ApiError, bad_request, limit_reached

WINDOW_S, RETENTION_S = 24 * 3_600, 30 * 24 * 3_600
MAX_OPEN_BATCHES, MAX_BATCHES = 100, 50_000
RESULT_FILES = 2  # of a batch
SPARE_BYTES = 64 << 10  # for the objects that the end of a batch writes
ABANDONED_S = 2 * 24 * 3_600  # after which bytes without an object belong to no upload and no batch
FILE_SUFFIXES = ("json", "jsonl", "index")
BATCH_SUFFIXES = ("json", "log", "spare", "cancel")
OPEN_STATUSES = ("validating", "in_progress", "finalizing")
_ID = re.compile(r"(?:file-|batch_)[0-9a-f]{31}[oe]?")


class FileObject(Record):
    """A stored file. Times are whole seconds since the epoch."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class BatchError(Record):
    """A fault of a batch; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Record):
    data: tuple[BatchError, ...]
    object: Literal["list"] = "list"


Outcome = Literal["completed", "expired", "cancelled", "failed"]


class Batch(Record):
    """A batch as clients see it. Times are whole seconds since the epoch, None until it has that status.

    `key_id`: the key that pays for it; None for the other keys of the tenant."""

    id: str
    endpoint: str
    input_file_id: str
    key_id: str | None
    created_at: int
    expires_at: int
    completion_window: Literal["24h"] = "24h"
    status: str = "validating"
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: dict[Literal["total", "completed", "failed"], int] | None = None
    metadata: dict[str, str] | None = None
    object: Literal["batch"] = "batch"


class StoredBatch(Batch):
    """A batch as it is stored. `outcome`: how it ends, from the time when its last request has ended."""

    key_id: str
    outcome: Outcome | None = None


T = TypeVar("T", FileObject, StoredBatch)


def create_id(prefix: str, at: float) -> str:
    """Return a new id: 44 bits of milliseconds since the epoch, 80 random bits."""
    return f"{prefix}{int(at * 1000) & 0xFFFFFFFFFFF:011x}{secrets.token_hex(10)}"


class BatchStore:
    """The files and batches of a tenant."""

    def __init__(self, home: Home, tenant: str, clock: Callable[[], float] = time.time, port: int = 0) -> None:
        self.tenant = tenant
        self._home, self._clock, self._port = home, clock, port
        self._folder = home.batches / tenant
        self.space = TenantSpace(home, tenant)

    def path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def find(self, kind: type[T], name: str) -> T:
        """Return a file or batch. Raises ApiError 404 if it does not exist, or belongs to another tenant."""
        with suppress(FileNotFoundError):
            if _ID.fullmatch(name) and name.startswith(_PREFIXES[kind]):
                found = msgspec.json.decode(self.path(name, "json").read_bytes(), type=kind)
                if isinstance(found, StoredBatch) or found.expires_at > self._clock():
                    return found
        raise _not_found(kind, name)

    def list_objects(
        self, kind: type[T], limit: int, after: str, *, newest_first: bool, purpose: str = ""
    ) -> tuple[list[T], bool]:
        """Return `limit` objects after the id `after`, and whether more follow. `purpose`: of files; empty: any."""
        paths = self._folder.glob(f"{_PREFIXES[kind]}*.json")
        found: list[T] = []
        for name in sorted((path.stem for path in paths), reverse=newest_first):
            if after and (name >= after if newest_first else name <= after):
                continue
            with suppress(ApiError):  # it was deleted, or has expired
                one = self.find(kind, name)
                if not purpose or getattr(one, "purpose", purpose) == purpose:
                    found.append(one)
            if len(found) > limit:
                return found[:-1], True
        return found, False

    def add_file(self, filename: str, data: bytes) -> FileObject:
        """Store the input of a batch. Raises ApiError 429 and 503 if the tenant or the disk has no space."""
        self._home.folder("batches", self.tenant)
        name = create_id("file-", self._clock())
        path = self.path(name, "jsonl")
        try:
            with open(create_file(path), "r+b") as file:
                self.space.add_file(file.fileno(), len(data))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return self.describe_file(name, filename, "batch")
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def open_file(self, name: str) -> ReadableFile:
        """Open a file to read it. Raises ApiError 404."""
        file = self.find(FileObject, name)
        try:
            return ReadableFile(self.path(file.id, "jsonl"))
        except FileNotFoundError:  # it was deleted meanwhile
            raise _not_found(FileObject, name) from None

    def describe_file(self, name: str, filename: str, purpose: Literal["batch", "batch_output"]) -> FileObject:
        """Write the object of a file whose bytes are stored."""
        now, size = int(self._clock()), self.path(name, "jsonl").stat().st_size
        expires_at = now + RETENTION_S
        found = FileObject(
            id=name, bytes=size, created_at=now, expires_at=expires_at, filename=filename, purpose=purpose
        )
        write_json(self.path(name, "json"), found)
        return found

    def delete_file(self, name: str) -> None:
        """Raises ApiError 404, and 409 for the input of a batch that is not done."""
        self.find(FileObject, name)
        for batch in self._list_open():
            if batch.input_file_id == name:
                message = f"The batch {batch.id} still reads this file. Cancel the batch first."
                raise ApiError(HTTPStatus.CONFLICT, message, "file_in_use")
        for suffix in FILE_SUFFIXES:
            self.path(name, suffix).unlink(missing_ok=True)

    def create_batch(
        self, input_file_id: str, endpoint: str, key_id: str, metadata: dict[str, str] | None
    ) -> StoredBatch:
        """Raises ApiError 400 for a file that is no input, 404 without it, 429 and 503 without space for more."""
        if self.find(FileObject, input_file_id).purpose != "batch":
            raise bad_request("The purpose of the input file must be 'batch'.", "input_file_id", "invalid_purpose")
        if [one.tenant for _, one in list_open_batches(self._home)].count(self.tenant) >= MAX_OPEN_BATCHES:
            message = f"This tenant has {MAX_OPEN_BATCHES} batches that are not done. Retry when one is done."
            raise limit_reached(message, "too_many_batches")
        if sum(1 for _ in self._folder.glob("batch_*.json")) >= MAX_BATCHES:
            message = f"This tenant created {MAX_BATCHES:,} batches in 30 days. Send more requests in each."
            raise limit_reached(message, "too_many_batches")
        self.space.check_count(RESULT_FILES)
        now = self._clock()
        batch = StoredBatch(
            id=create_id("batch_", now),
            endpoint=endpoint,
            input_file_id=input_file_id,
            key_id=key_id,
            created_at=int(now),
            expires_at=int(now) + WINDOW_S,
            metadata=metadata,
        )
        spare = self.path(batch.id, "spare")
        with open(create_file(spare), "r+b") as file:
            try:
                self.space.grow_file(file.fileno(), SPARE_BYTES)
            except ApiError:
                spare.unlink()
                raise
        # First: the name of a batch that does not exist does no harm.
        model, expires_at = read_model(self.path(input_file_id, "jsonl")), batch.expires_at
        mark = OpenBatch(tenant=self.tenant, port=self._port, model=model, expires_at=expires_at)
        write_json(self._home.folder("batches", OPEN_FOLDER) / batch.id, mark)
        write_json(self.path(batch.id, "json"), batch)
        return batch

    def find_batch(self, name: str, key_id: str | None = None) -> Batch:
        """Return a batch as the key `key_id` sees it; None: without the key that pays. Raises ApiError 404."""
        stored = self.find(StoredBatch, name)
        batch = msgspec.convert(stored, Batch, from_attributes=True)
        if stored.key_id != key_id:
            batch = replace(batch, key_id=None)
        cancelled_at = self.read_cancellation(name)
        if cancelled_at is None or batch.status not in OPEN_STATUSES:
            return batch
        return replace(batch, status="cancelling", cancelling_at=cancelled_at)

    def read_cancellation(self, name: str) -> int | None:
        """Return when a batch was cancelled, None if it was not, or is done."""
        with suppress(FileNotFoundError):
            return int(self.path(name, "cancel").stat().st_mtime)
        return None

    def cancel_batch(self, name: str) -> None:
        """Begin no further line; running lines finish. Raises ApiError 404, and 409 for a batch that is done."""
        batch = self.find(StoredBatch, name)
        if batch.status not in OPEN_STATUSES:
            message = f"A batch with the status {batch.status!r} cannot be cancelled."
            raise ApiError(HTTPStatus.CONFLICT, message, "batch_done")
        with suppress(FileNotFoundError):  # it was cancelled before
            self.path(name, "spare").rename(self.path(name, "cancel"))
        self.path(name, "cancel").touch(0o600)

    def list_paths(self, batch: StoredBatch) -> list[Path]:
        """Return the files of a batch that exist: its own, its results, and its input if no other batch reads it."""
        paths = [self.path(batch.id, suffix) for suffix in BATCH_SUFFIXES]
        names = [result_name(batch.id, field) for field in ("output_file_id", "error_file_id")]
        others = [one for one in self._list_open() if one.id != batch.id]
        if all(other.input_file_id != batch.input_file_id for other in others):
            names.append(batch.input_file_id)
        paths += [self.path(name, suffix) for name in names for suffix in FILE_SUFFIXES]
        paths.append(self._home.batches / OPEN_FOLDER / batch.id)
        return [path for path in paths if path.exists()]

    def _list_open(self) -> Iterator[StoredBatch]:
        """Yield the batches of the tenant that are not done."""
        for name, one in list_open_batches(self._home):
            if one.tenant == self.tenant:
                with suppress(ApiError):  # it was deleted meanwhile
                    yield self.find(StoredBatch, name)

    def free_spare(self, name: str) -> None:
        """Give the disk back what was kept for the end of a batch."""
        for suffix in ("spare", "cancel"):
            with suppress(FileNotFoundError):
                os.truncate(self.path(name, suffix), 0)


def _not_found(kind: type[FileObject] | type[StoredBatch], name: str) -> ApiError:
    noun = _PREFIXES[kind][:-1]
    return ApiError(HTTPStatus.NOT_FOUND, f"No such {noun}: {name[:80]!r}.", "not_found", param=f"{noun}_id")


_PREFIXES: dict[type, str] = {FileObject: "file-", StoredBatch: "batch_"}


def list_batches(home: Home) -> list[tuple[str, StoredBatch]]:
    """Return the batches of all tenants with their tenants, the oldest first."""
    found: list[tuple[str, StoredBatch]] = []
    for path in sorted(home.batches.glob("*/batch_*.json"), key=lambda path: path.name):
        with suppress(FileNotFoundError):
            found.append((path.parent.name, msgspec.json.decode(path.read_bytes(), type=StoredBatch)))
    return found


def remove_expired_files(home: Home, now: float) -> None:
    """Delete what nobody changed for the time of retention; earlier, bytes that a crash left without an object."""
    for path in home.batches.glob("*/*"):
        retention_s = ABANDONED_S if _is_abandoned(home, path) else RETENTION_S
        with suppress(FileNotFoundError):
            if path.stat().st_mtime + retention_s < now:
                path.unlink()


def result_name(batch_id: str, field: str) -> str:
    """Return the id of the file that `field` of the batch names when the batch is done."""
    return f"file-{batch_id.removeprefix('batch_')}{field[0]}"


def _is_abandoned(home: Home, path: Path) -> bool:
    """True for bytes without an object, unless they are results of a batch that is not done."""
    if path.suffix != DATA_SUFFIX or path.with_suffix(".json").exists():
        return False
    batch_id = f"batch_{path.stem[len('file-') : -1]}"
    return not (home.batches / OPEN_FOLDER / batch_id).exists()

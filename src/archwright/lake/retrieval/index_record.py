"""The record of an index: lake/indexes/VERSION/index.json names the segments, and so decides what is searched.

Segments are written first, then the record is replaced atomically. A process that is killed leaves the old index, and
the next writer removes segments that the record does not name.
"""

import hashlib
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_json
from archwright.lake.tables.data_files import sync_folder
from archwright.lake.tables.dataset_lock import lock_file

RECORD_NAME = "index.json"


class SegmentFile(Record):
    path: str
    sha256: str
    size_bytes: int


class IndexSegment(Record):
    """A folder with up to SEGMENT_ROWS passages and their vector and keyword indexes."""

    name: str
    rows: int
    files: tuple[SegmentFile, ...]


class IndexRecord(Record):
    """The index of a version. `content_sha256`: of the version when it was indexed; `column`: the column of texts.

    Without an embedding model, `model` and `model_sha256` are empty and `dimensions` is 0: keyword search only.
    """

    version: str
    dataset: str
    content_sha256: str
    at: float
    column: str
    passages: int
    segments: tuple[IndexSegment, ...]
    model: str = ""
    model_sha256: str = ""
    dimensions: int = 0
    options: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for segment in self.segments for file in segment.files)


def index_folder(home: Home, version: str) -> Path:
    return home.lake / "indexes" / version


def list_indexed_versions(home: Home) -> list[str]:
    """The ids of the versions that have an index."""
    return sorted(path.parent.name for path in (home.lake / "indexes").glob(f"*/{RECORD_NAME}"))


def list_index_folders(home: Home) -> list[str]:
    """The ids of the versions with files of an index, also of a build that was killed."""
    return sorted(path.name for path in (home.lake / "indexes").glob("*") if path.is_dir())


def read_record(home: Home, version: str) -> IndexRecord | None:
    """The record of a version's index, None if it has none. Raises DataError AW-DATA-77."""
    path = index_folder(home, version) / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=IndexRecord)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged_index_error(version, path, str(error)) from error


def commit_record(home: Home, record: IndexRecord) -> None:
    """Replace the record, then remove the segments that it does not name. The caller holds the lock."""
    folder = index_folder(home, record.version)
    write_json(folder / RECORD_NAME, record)
    sync_folder(folder)
    remove_orphans(folder, record)


def remove_orphans(folder: Path, record: IndexRecord | None) -> None:
    named = {segment.name for segment in record.segments} if record else set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in named:
            shutil.rmtree(path)


def lock_index(home: Home, version: str) -> AbstractContextManager[None]:
    """Wait for the lock of the writers of a version's index."""
    return lock_file(home, f"index-{version}.lock")


def describe_files(folder: Path) -> tuple[SegmentFile, ...]:
    """Flush the files of a segment to the disk and digest them; lock files are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append(SegmentFile(path=str(path.relative_to(folder)), sha256=digest, size_bytes=path.stat().st_size))
    for path in (folder, *(inside for inside in folder.rglob("*") if inside.is_dir())):
        sync_folder(path)
    return tuple(found)


def check_segment(version: str, folder: Path, segment: IndexSegment) -> None:
    """Compare the files with their digests, since a damaged file could crash its library.

    Raises DataError AW-DATA-77, FileNotFoundError for a missing file.
    """
    for file in segment.files:
        path = folder / segment.name / file.path
        with path.open("rb") as data:
            if hashlib.file_digest(data, "sha256").hexdigest() != file.sha256:
                raise damaged_index_error(version, path, "its SHA-256 is not the recorded one")


def damaged_index_error(version: str, path: Path, problem: str) -> DataError:
    message = f"the index of {version} is damaged: {path.name}: {problem}"
    hint = f"build it again: archwright data index {version}"
    return DataError("AW-DATA-77", message, where=ErrorLocation(str(path)), hint=hint)

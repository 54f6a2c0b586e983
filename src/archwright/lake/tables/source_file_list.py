"""The source files of a version: per ingested version a JSON-lines file of the files that changed.

The list is written before the version is committed, so a committed version has its list.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, write_atomic

_decode_version = msgspec.json.Decoder(DatasetVersion).decode
_decode_file = msgspec.json.Decoder(SourceFile).decode_lines


def version_record_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "versions", dataset) / f"v{version}.json"


def source_list_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "versions", dataset) / f"v{version}.files.jsonl"


def write_source_files(home: Home, version: DatasetVersion, changed: Iterable[SourceFile]) -> None:
    """Write the files that the version adds or replaces, or whose signature alone is new."""
    path = source_list_path(home, version.dataset, version.version)
    write_atomic(path, msgspec.json.Encoder().encode_lines(changed))


def read_source_files(home: Home, version: DatasetVersion) -> tuple[SourceFile, ...]:
    """All files whose rows the version may hold, by path; those of its source for a refined version.

    Raises DataError AW-DATA-27 if a list is missing.
    """
    try:
        while version.action == "refine" and version.parent:
            dataset, _, parent = version.parent.rpartition("@v")
            version = _decode_version(version_record_path(home, dataset, int(parent)).read_bytes())
        found = _fold_lists(home, version.dataset, version.version if version.source_files else 0)
    except (OSError, msgspec.MsgspecError) as error:
        message = f"the list of the source files of {version.id} cannot be read: {error}"
        hint = "copy the folder lake/versions from a restored backup: archwright restore --into DIR"
        raise DataError("AW-DATA-27", message, where=ErrorLocation(field=version.id), hint=hint) from error
    return tuple(found[path] for path in sorted(found))


def find_new_files(home: Home, version: DatasetVersion) -> list[SourceFile]:
    """The files that an ingested version added or replaced by other content."""
    before = _fold_lists(home, version.dataset, version.version - 1)
    after = _fold_lists(home, version.dataset, version.version)
    return [file for path, file in after.items() if path not in before or before[path].sha256 != file.sha256]


def read_lists(home: Home, dataset: str) -> dict[int, tuple[SourceFile, ...]]:
    """The list of each version by its number; empty for a refined data set."""
    paths = home.folder("lake", "versions", dataset).glob("v*.files.jsonl")
    return {int(path.name[1:].partition(".")[0]): tuple(_decode_file(path.read_bytes())) for path in paths}


def _fold_lists(home: Home, dataset: str, versions: int) -> dict[str, SourceFile]:
    found: dict[str, SourceFile] = {}
    for number in range(1, versions + 1):
        files = _decode_file(source_list_path(home, dataset, number).read_bytes())
        found.update((file.path, file) for file in files)
    return found

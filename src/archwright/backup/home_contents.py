"""The files of a home that a backup holds.

Left out: state of processes and logs, locks, and what is made again from other files. A file that no rule names is
backed up, so a new store is never forgotten.
"""

from collections.abc import Iterator
from pathlib import Path

from archwright.backup.manifest import DATABASE_FILE
from archwright.home import Home
from archwright.monitor.wal.segments import SEGMENT_SUFFIX
from archwright.store import SQLITE_SUFFIXES

CATALOG_FILE = "lake/catalog.db"
CHECKPOINTS_FILE = "audit/checkpoints.jsonl"
LAKE, LEDGER = "lake", "ledger"
# Folders below the home that no backup holds.
LEFT_OUT = {
    *("run", "logs", "engines", "backups"),
    *("lake/locks", "lake/work", "lake/spool", "lake/embeddings", "models/bases"),
}
# Databases, which are copied by their own means.
DATABASES = {name + suffix for name in (DATABASE_FILE, CATALOG_FILE) for suffix in SQLITE_SUFFIXES}
UNFINISHED_SUFFIXES = (".part", ".draft", ".new", ".tmp")


def list_files(home: Home, folder: str = "") -> dict[str, Path]:
    """Return the files of the home below `folder` by their path below the home, without databases.

    A link to a file counts as the file; a link to a folder is not followed."""
    return {name: path for name, path in _walk_folder(home.root, home.root / folder) if _is_backed_up(name)}


def _walk_folder(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            if name not in LEFT_OUT and not path.is_symlink():
                yield from _walk_folder(root, path)
        elif path.is_file():
            yield name, path


def _is_backed_up(name: str) -> bool:
    last = name.rpartition("/")[2]
    if last.endswith(SEGMENT_SUFFIX):  # a segment of no store has a name that begins with a point
        return True
    return name not in DATABASES and not last.startswith(".") and not last.endswith(UNFINISHED_SUFFIXES)

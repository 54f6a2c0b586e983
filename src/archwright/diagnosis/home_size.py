"""The space that a home takes by kind of file, and what may be removed.

The kinds are the rows of home_parts.csv; the first pattern that matches a path below the home counts."""

import csv
import os
import shlex
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from archwright.contract.diagnosis import HomePart, HomeReport
from archwright.contract.record import replace
from archwright.home import Home

BLOCK_BYTES = 512  # of `st_blocks`


class PartKind(NamedTuple):
    """A row of home_parts.csv. HOME in `removal` stands for the path of the home."""

    pattern: str
    content: str
    removal: str
    condition: str


def describe_home(home: Home, *, detailed: bool) -> HomeReport:
    """`detailed`: with the sizes of its parts."""
    report = HomeReport(
        path=str(home.root),
        schema_version=home.schema_version,
        free_bytes=shutil.disk_usage(home.root).free,
    )
    if not detailed:
        return report
    parts = measure_parts(home.root)
    return replace(report, parts=parts, size_bytes=sum(map(attrgetter("size_bytes"), parts)))


def measure_parts(root: Path) -> tuple[HomePart, ...]:
    """Return the kinds of files that a home has, the largest first."""
    parts: dict[PartKind, HomePart] = {}
    counted: set[tuple[int, int]] = set()
    for name, status in _walk_files(root):
        kind = find_kind(name)
        part = parts.get(kind) or _start_part(kind, root)
        size_bytes = part.size_bytes
        # A file with two names takes its space once.
        inode = status.st_dev, status.st_ino
        if inode not in counted:
            size_bytes += status.st_blocks * BLOCK_BYTES
        counted.add(inode)
        parts[kind] = replace(part, files=part.files + 1, size_bytes=size_bytes)
    return tuple(sorted(parts.values(), key=lambda part: (-part.size_bytes, part.content)))


def _start_part(kind: PartKind, root: Path) -> HomePart:
    removal = kind.removal.replace("HOME", shlex.quote(str(root)))
    return HomePart(content=kind.content, files=0, size_bytes=0, removal=removal, condition=kind.condition)


def find_kind(name: str) -> PartKind:
    """Return the kind of a file by its path below the home."""
    kinds = read_kinds()
    return next(kind for kind in kinds if fnmatchcase(name, kind.pattern))


@cache
def read_kinds() -> tuple[PartKind, ...]:
    with Path(__file__).with_name("home_parts.csv").open(encoding="utf-8", newline="") as file:
        return tuple(PartKind(**row) for row in csv.DictReader(file))


def _walk_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below the home; links are not followed."""
    for folder, _folders, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.lstat()
            except FileNotFoundError:  # removed meanwhile
                continue
            yield path.relative_to(root).as_posix(), status

"""Files into pieces, and pieces into files."""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from archwright.backup.manifest import BackupFile, damaged_error
from archwright.backup.repository import PIECE_BYTES, BackupRepository
from archwright.home import open_private

# A file whose time is this near may change again without a new time.
SETTLED_NS = 2_000_000_000


class FileCopier:
    """Stores files in a repository. A file with the size and time of its last backup is not read again."""

    def __init__(self, repository: BackupRepository, known: Iterable[BackupFile]) -> None:
        self._repository = repository
        self._known: dict[str, BackupFile] = {file.path: file for file in known}
        self.added_bytes = 0

    def store_file(self, name: str, path: Path) -> BackupFile | None:
        """Store a file; None if it no longer exists."""
        try:
            status = path.stat()
            known = self._known.get(name)
            if known and self._is_unchanged(known, status):
                return known
            return self._read_file(name, path, status)
        except FileNotFoundError:
            return None

    def store_bytes(self, name: str, data: bytes) -> BackupFile:
        starts = range(0, len(data), PIECE_BYTES)
        pieces = tuple(self._store_piece(data[start : start + PIECE_BYTES]) for start in starts)
        digest = hashlib.sha256(data).hexdigest()
        return BackupFile(path=name, size_bytes=len(data), sha256=digest, pieces=pieces)

    def _is_unchanged(self, known: BackupFile, status: os.stat_result) -> bool:
        same = (known.size_bytes, known.changed_ns) == (status.st_size, status.st_mtime_ns)
        return same and self._repository.object_names.issuperset(known.pieces)

    def _read_file(self, name: str, path: Path, status: os.stat_result) -> BackupFile:
        settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
        digest = hashlib.sha256()
        size_bytes = 0
        pieces = []
        with path.open("rb") as file:
            while data := file.read(PIECE_BYTES):
                digest.update(data)
                size_bytes += len(data)
                pieces.append(self._store_piece(data))
        stored = BackupFile(
            path=name,
            size_bytes=size_bytes,
            sha256=digest.hexdigest(),
            pieces=tuple(pieces),
            changed_ns=status.st_mtime_ns if settled and size_bytes == status.st_size else 0,
        )
        self._known[name] = stored
        return stored

    def _store_piece(self, data: bytes) -> str:
        piece = self._repository.store_piece(data)
        self.added_bytes += piece.added_bytes
        return piece.name


def restore_file(repository: BackupRepository, file: BackupFile, target: Path) -> None:
    """Write a file and make it durable. Raises OperateError AW-OPS-82 if its digest is another one."""
    digest = hashlib.sha256()
    with open_private(target, "wb") as output:
        for piece in file.pieces:
            data = repository.read_piece(piece)
            digest.update(data)
            output.write(data)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != file.sha256:
        raise damaged_error(file.path, "a file has another digest than in the manifest")
    if file.changed_ns:
        os.utime(target, ns=(file.changed_ns, file.changed_ns))


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_files(files: Iterable[BackupFile]) -> Mapping[str, BackupFile]:
    return {file.path: file for file in files}

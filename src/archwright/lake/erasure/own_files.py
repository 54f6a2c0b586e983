"""The proof of files that the program itself writes in formats without text: index segments, keys, the disk reserve.

A keyword index is proven by writing it again: tantivy makes the same bytes from the same passages, and the passages are
searched as text. A vector index is proven by usearch: it holds one vector for each passage and nothing else.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from archwright.crypto.signing import SECRET_BYTES
from archwright.home import Home
from archwright.journal import report_step
from archwright.lake.lazy_modules import np, pa, vector_files
from archwright.lake.retrieval.index_record import RECORD_NAME, IndexRecord, index_folder
from archwright.lake.retrieval.segment import KEYWORDS, PASSAGES, VECTORS, write_keywords

# The log index of SQLite (https://www.sqlite.org/walformat.html): blocks of page numbers and of slots of a hash table.
WAL_INDEX_SUFFIX = "-shm"
WAL_INDEX_BLOCK_BYTES, WAL_INDEX_HEADER_BYTES = 32_768, 136
WAL_INDEX_PAGES = 4_096
LEAST_PAGE_BYTES = 512  # of a page of SQLite
PIECE_BYTES = 1 << 20


class OwnFileDecoder:
    """Decoder of the home's own files for `scan_files`. A file that it proves holds no text, so it yields nothing."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._indexes = index_folder(home, "")
        self._keyword_digests: dict[Path, frozenset[str]] = {}

    def decode(self, path: Path, _head: bytes) -> Iterator[Any] | None:
        """Return an iterator without values if the file is proven, None if it is another file."""
        proof = self._find_proof(path)
        try:
            proven = proof is not None and proof(path)
        except (msgspec.MsgspecError, RuntimeError, KeyError):  # a damaged record, vector file or column
            proven = False
        return iter(()) if proven else None

    def _find_proof(self, path: Path) -> Callable[[Path], bool] | None:
        if path == self._home.disk_reserve:
            return is_zero
        if path.parent == self._home.pepper.parent:
            return is_random_key
        if path.name.endswith(WAL_INDEX_SUFFIX):
            return is_wal_index
        if path.is_relative_to(self._indexes) and path.name == VECTORS:
            return self._holds_only_vectors_of_passages
        if path.is_relative_to(self._indexes) and path.parent.name == KEYWORDS:
            return self._holds_only_terms_of_passages
        return None

    def _holds_only_vectors_of_passages(self, path: Path) -> bool:
        passages = _read_passages(path.parent)
        index = vector_files.Index.restore(str(path), view=True)
        rows = np.sort(np.asarray(index.keys))
        return len(index) == passages.num_rows and bool(np.array_equal(rows, np.arange(passages.num_rows)))

    def _holds_only_terms_of_passages(self, path: Path) -> bool:
        segment = path.parent.parent
        if segment not in self._keyword_digests:
            self._keyword_digests = {segment: self._write_again(segment)}
        return _digest_file(path) in self._keyword_digests[segment]

    def _write_again(self, segment: Path) -> frozenset[str]:
        """Return the digests of the files that the passages of a segment give."""
        report_step(f"proving the keyword index: {segment.parent.name}")
        record = msgspec.json.decode((segment.parent / RECORD_NAME).read_bytes(), type=IndexRecord)
        texts = _read_passages(segment).column(record.column).to_pylist()
        with TemporaryDirectory(dir=self._home.folder("run")) as folder:
            write_keywords(Path(folder), texts)
            return frozenset(_digest_file(path) for path in Path(folder).iterdir())


def _read_passages(segment: Path) -> Any:
    with pa.OSFile(str(segment / PASSAGES)) as source:
        return pa.ipc.open_file(source).read_all()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_zero(path: Path) -> bool:
    """True if the file holds zero bytes only."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            if piece.count(0) != len(piece):
                return False
    return True


def is_random_key(path: Path) -> bool:
    """True for the length of a key of the home: so many random bytes."""
    return path.stat().st_size == SECRET_BYTES


def is_wal_index(path: Path) -> bool:
    """True if a log index of SQLite holds page numbers of its database, and slots of its hash tables, only."""
    database = path.with_name(path.name.removesuffix(WAL_INDEX_SUFFIX))
    log = path.with_name(f"{database.name}-wal")
    data = path.read_bytes()
    if len(data) % WAL_INDEX_BLOCK_BYTES or not log.exists():
        return False
    most_pages = max(database.stat().st_size, log.stat().st_size) // LEAST_PAGE_BYTES
    for start in range(0, len(data), WAL_INDEX_BLOCK_BYTES):
        block = data[start : start + WAL_INDEX_BLOCK_BYTES]
        first = WAL_INDEX_HEADER_BYTES if start == 0 else 0
        slots_start = WAL_INDEX_PAGES * 4
        pages = struct.unpack(f"={(slots_start - first) // 4}I", block[first:slots_start])
        slots = struct.unpack(f"={WAL_INDEX_PAGES * 2}H", block[slots_start:])
        if max(pages) > most_pages or max(slots) > WAL_INDEX_PAGES:
            return False
    return True

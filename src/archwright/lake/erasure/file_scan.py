"""The proof of an erasure: decode every file of the home and search it, then search its raw bytes.

Parquet files are read with all columns, also those that the table dropped, and with their dictionaries, which may hold
values without rows. Avro files are read with their bounds of columns, which may be cut. Files of the home in formats
without text have proofs of their own (`own_files`). A file that is no text and has no decoder is named as not proven;
its raw bytes are searched.
"""

import gzip
import lzma
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from archwright.contract.record import Record
from archwright.errors import missing_extra
from archwright.lake.erasure.subject import Subject
from archwright.lake.lazy_modules import pa, pq

PIECE_BYTES = 8 << 20
PART_CHARACTERS = 64 << 10  # of a text that the slow exact pattern searches at once
OVERLAP_BYTES = 4096  # longer than each encoded identifier
NUMBER_COLUMNS = ("source_row", "offset", "tokens")  # numbers that we make may equal an identifier by chance
MOST_NESTED = 3  # archives in archives
# Names below the home that hold weights: what a model remembers cannot be searched.
WEIGHTS = ("models",)

FileDecoder = Callable[[Path, bytes], Iterator[Any] | None]
"""From a file and its first bytes to Arrow arrays of its content; None if the format is another."""


class ScanHit(Record):
    """A file that names the person, `count` times, in its decoded content or in its raw bytes."""

    place: str
    count: int
    how: str


class ScanResult(Record):
    """`not_proven`: files whose format cannot be decoded; the search of their raw bytes found nothing."""

    files: int
    decoded: int
    size_bytes: int
    hits: tuple[ScanHit, ...]
    not_proven: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.hits


def scan_files(root: Path, subject: Subject, decoders: Sequence[FileDecoder] = ()) -> ScanResult:
    """Search every file below `root`; `decoders` read the formats of other packages and come first."""
    hits: list[ScanHit] = []
    unproven: list[str] = []
    files = decoded = size = 0
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        files += 1
        size += path.stat().st_size
        name = path.relative_to(root).as_posix()
        place = subject.mask_path(name)
        if place != name:
            hits.append(ScanHit(place=place, count=1, how="name"))
        found = None if name.startswith(WEIGHTS) else count_decoded(path, subject, decoders)
        if found:
            hits.append(ScanHit(place=place, count=found, how="decoded"))
        raw = _count_raw(path, subject, found is not None)
        if raw:
            hits.append(ScanHit(place=place, count=raw, how="bytes"))
        decoded += found is not None
        if found is None and not raw and path.stat().st_size:
            unproven.append(place)
    return ScanResult(files=files, decoded=decoded, size_bytes=size, hits=tuple(hits), not_proven=tuple(unproven))


def count_decoded(path: Path, subject: Subject, decoders: Sequence[FileDecoder] = ()) -> int | None:
    """Count the values of a file that name the person; None if nothing decodes it."""
    with open(path, "rb") as file:
        head = file.read(16)
    try:
        for decoder in (*decoders, _decode_columns):
            arrays = decoder(path, head)
            if arrays is not None:
                return sum(int(subject.match_values(array).true_count) for array in arrays)
        if head.startswith(b"Obj\x01"):
            return sum(subject.match_text(text) or subject.match_bound(text) for text in _read_avro(path))
        with open(path, "rb") as file:
            return _count_content(file, subject, MOST_NESTED)
    except (OSError, ValueError, EOFError, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException):
        return None


def _count_raw(path: Path, subject: Subject, decoded: bool) -> int:
    found = 0
    with open(path, "rb") as file:
        tail = b""
        while piece := file.read(PIECE_BYTES):
            found += subject.find_raw(tail + piece, decoded=decoded)
            tail = piece[-OVERLAP_BYTES:]
    return found


def _decode_columns(path: Path, head: bytes) -> Iterator[Any] | None:
    if head.startswith(b"ARROW1"):
        return _read_arrow(path)
    return _read_parquet(path) if head.startswith(b"PAR1") else None


def _read_arrow(path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            yield from (batch.column(name) for name in batch.schema.names if name not in NUMBER_COLUMNS)


def _read_parquet(path: Path) -> Iterator[Any]:
    """Yield every column chunk, the values of its dictionary among them, and the metadata of the file."""
    schema = pq.read_schema(path)
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            for name in (name for name in file.schema_arrow.names if name not in NUMBER_COLUMNS):
                for chunk in file.read_row_group(group, columns=[name]).column(0).chunks:
                    if pa.types.is_dictionary(chunk.type):
                        yield chunk.dictionary
                    else:
                        yield chunk
    metadata = [text.decode(errors="replace") for pair in (schema.metadata or {}).items() for text in pair]
    yield pa.array([*schema.names, *metadata], pa.large_string())


def _read_avro(path: Path) -> Iterator[str]:
    """Yield the texts of every record, column bounds among them."""
    try:
        from pyiceberg.avro.file import AvroFile  # noqa: PLC0415
        from pyiceberg.io.pyarrow import PyArrowFileIO  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("lake", "pyiceberg", "reading manifests") from error
    with AvroFile(PyArrowFileIO().new_input(str(path))) as records:
        for record in records:
            yield from _list_texts(record)


def _list_texts(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _list_texts(list(pair))
    elif isinstance(value, (list, tuple, set)):
        for one in value:
            yield from _list_texts(one)
    elif hasattr(value, "_data"):  # a record of pyiceberg
        yield from _list_texts(list(value._data))


def _count_content(file: IO[bytes], subject: Subject, depth: int) -> int | None:
    """Count in an archive, in its members, or in text; None for other bytes."""
    head = file.read(8)
    file.seek(0)
    if head.startswith(b"PK\x03\x04") and depth:
        counts = []
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as inner:
                    counts.append(_count_content(inner, subject, depth - 1))
        return None if None in counts else sum(count or 0 for count in counts)
    codecs = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
    name = next((name for magic, name in codecs.items() if head.startswith(magic)), None)
    if name and depth:
        return _count_stream(
            gzip.open(file) if name == "gzip" else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), name),
            subject,
        )
    return _count_stream(file, subject)


def _count_stream(file: Any, subject: Subject) -> int | None:
    """Count in a stream of text, piece by piece, so that memory is bounded."""
    found, tail = 0, b""
    while piece := file.read(PIECE_BYTES):
        if b"\0" in piece:
            return None
        text = (tail + piece).decode(errors="surrogateescape")
        strange = sum("\udc80" <= character <= "\udcff" for character in text[:4096])
        if strange > 8:
            return None
        text = text.encode(errors="replace").decode()
        starts = range(0, len(text), PART_CHARACTERS)
        found += sum(subject.match_text(text[at : at + PART_CHARACTERS + OVERLAP_BYTES]) for at in starts)
        tail = piece[-OVERLAP_BYTES:]
    return found

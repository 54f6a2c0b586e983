"""The scan finds a person in every format that it decodes, and says what it cannot decode."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry, ManifestEntryStatus
from pyiceberg.manifest import write_manifest as open_manifest
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record
from pyiceberg.types import NestedField, StringType

from archwright.lake.erasure.file_scan import ScanResult, scan_files
from archwright.lake.erasure.subject import Subject

NAME = "Zoë Übel"
PERSON = Subject([NAME, "zoe.uebel@example.org"])


def write_column(path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "who": ["x", f"of {NAME}"]}), path, compression="zstd")


def write_unused_dictionary(path: Path) -> None:
    """A value that no row has any more stays in the dictionary of a filtered column."""
    words = pa.array(["x", NAME]).dictionary_encode()
    pq.write_table(pa.table({"who": words.filter(pa.array([True, False]))}), path, compression="zstd")


def write_schema_metadata(path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"owner": NAME}), path)


def write_manifest(path: Path, bound: bytes) -> None:
    """A manifest of Iceberg, whose bounds of columns hold values."""
    schema = Schema(NestedField(1, "who", StringType(), required=False))
    output = PyArrowFileIO().new_output(str(path))
    with open_manifest(2, UNPARTITIONED_PARTITION_SPEC, schema, output, 7, "deflate") as writer:
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path="a.parquet",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=1,
            file_size_in_bytes=1,
            lower_bounds={1: bound},
            upper_bounds={1: b"zzz"},
        )
        writer.add_entry(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=7, data_file=file))


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<p>{NAME}</p>" * 50)


PLANTED: dict[str, Callable[[Path], object]] = {
    "column.parquet": write_column,
    "dictionary.parquet": write_unused_dictionary,
    "metadata.parquet": write_schema_metadata,
    "bound.avro": lambda path: write_manifest(path, NAME.encode()),
    "cut.avro": lambda path: write_manifest(path, b"zoe.uebel@exampl"),
    "lines.jsonl": lambda path: path.write_text(json.dumps({"who": NAME}) + "\n", encoding="ascii"),
    "text.md": lambda path: path.write_text("x" * (8 << 20) + f" {NAME} ", encoding="utf-8"),
    "log.gz": lambda path: path.write_bytes(gzip.compress(NAME.encode())),
    "log.zst": lambda path: path.write_bytes(pa.compress(f"{NAME} ".encode() * 9, codec="zstd", asbytes=True)),
    "report.docx": write_zip,
    "wide.txt": lambda path: path.write_bytes(NAME.encode("utf-16")),
    "raw.bin": lambda path: path.write_bytes(b"\0\xff" * 99 + NAME.encode() + b"\0"),
    "zoe.uebel@example.org.txt": lambda path: path.write_text("x"),
}


def scan(folder: Path) -> ScanResult:
    return scan_files(folder, PERSON)


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_place_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.txt").write_text("Zoë Übelmann", encoding="utf-8")
    PLANTED[name](tmp_path / name)
    found = scan(tmp_path)
    assert {hit.place for hit in found.hits} == {PERSON.mask_path(name)}
    assert found.files == 2
    (tmp_path / name).unlink()
    assert scan(tmp_path).clean


def test_what_cannot_be_decoded_is_not_proven(tmp_path: Path) -> None:
    (tmp_path / "archwright.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + bytes(100))
    (tmp_path / "cut.avro").write_bytes(b"Obj\x01" + bytes(100))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    (tmp_path / "empty").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.gguf").write_text("text by chance")
    found = scan(tmp_path)
    assert found.clean
    assert found.not_proven == ("archwright.db", "cut.avro", "cut.gz", "cut.parquet", "models/weights.gguf")


def test_other_packages_decode_their_formats(tmp_path: Path) -> None:
    (tmp_path / "a.own").write_bytes(b"\0" + NAME.encode()[::-1])
    assert scan(tmp_path).clean
    found = scan_files(
        tmp_path,
        PERSON,
        (lambda path, head: iter([pa.array([path.read_bytes()[:0:-1].decode()])]) if head[:1] == b"\0" else None,),
    )
    assert [(hit.place, hit.how) for hit in found.hits] == [("a.own", "decoded")]
    assert found.not_proven == ()

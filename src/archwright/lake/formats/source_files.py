"""Scans the files of an ingest: a file is read, skipped, or refuses the ingest.

A folder is read in the order of its paths. Hidden entries, links and irregular files are skipped and reported. A file
of an unknown format refuses the whole ingest, so that no file is omitted silently.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from archwright.contract.lineage import SourceFile
from archwright.errors import DataError, ErrorLocation, from_os_error

FORMAT_BY_SUFFIX = {
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"},
    **dict.fromkeys((".txt", ".md", ".markdown"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **{".pdf": "pdf", ".docx": "docx", ".pptx": "pptx"},
    **dict.fromkeys((".xlsx", ".xls", ".xlsb", ".ods"), "workbook"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp"), "image"),
}
COMPRESSIBLE = {"jsonl", "csv"}  # these may be compressed: NAME.csv.gz
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz"}
SETTLED_S = 2.0  # a file system may store times in steps of up to 2 s
READABLE_FORMATS = "jsonl, csv, parquet, txt, md, html, pdf, docx, pptx, xlsx, ods, images; jsonl.gz, csv.gz"


class ScannedFile(NamedTuple):
    """A file to ingest; `name` is its POSIX path relative to the ingested folder.

    `stable` is False if the file may change without a change of its signature: it is younger than the file system's
    clock ticks. A `remote` file has its URL as name, and `path` is its copy.
    """

    path: Path
    name: str
    format: str
    size_bytes: int
    sha256: str
    signature: str
    stable: bool = True
    remote: bool = False

    def has_changed(self) -> bool:
        """True if the file changed since its digest was computed; the copy of a remote one belongs to this ingest."""
        return not self.remote and read_file_signature(self.path) != self.signature


class SourceScan(NamedTuple):
    sources: tuple[ScannedFile, ...]
    passed_over: tuple[str, ...]


def scan_sources(path: Path, known: Mapping[str, SourceFile] | None = None) -> SourceScan:
    """All files to ingest, with digests; a `known` file with the same signature is not read.

    Raises DataError AW-DATA-02 (nothing to read), -03 (unknown format), -04 (a pickle), -05, -06; OSErrors converted.
    """
    passed_over: list[str] = []
    try:
        root = path.resolve(strict=True)
        whole = root.is_dir()
        paths = sorted(_walk_folder(root, root, passed_over)) if whole else [root]
        named = [(file, file.relative_to(root).as_posix() if whole else path.name) for file in paths]
        forms = [detect_format(name) for _file, name in named]
        known = known or {}
        sources = tuple(
            _scan_file(file, name, form, known.get(name)) for (file, name), form in zip(named, forms, strict=True)
        )
    except OSError as error:
        raise from_os_error(error) from error
    if not sources:
        skipped = f" ({len(passed_over)} skipped: {', '.join(passed_over[:3])})" if passed_over else ""
        message, hint = f"no file to ingest in the folder{skipped}", f"add files of these formats: {READABLE_FORMATS}"
        raise DataError("AW-DATA-02", message, where=ErrorLocation(str(path)), hint=hint)
    return SourceScan(sources, tuple(passed_over))


def _walk_folder(folder: Path, root: Path, passed_over: list[str]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry.name.startswith("."):
            passed_over.append(f"{name}: hidden")
        elif entry.is_symlink() and not entry.resolve().is_relative_to(root):
            passed_over.append(f"{name}: a link to a place outside of the folder")
        elif entry.is_symlink():
            passed_over.append(f"{name}: a link; its target is read at its own path")
        elif entry.is_dir():
            yield from _walk_folder(entry, root, passed_over)
        elif entry.is_file():
            yield entry
        else:
            passed_over.append(f"{name}: not a regular file")


def detect_format(name: str) -> str:
    path = PurePosixPath(name)
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    form = FORMAT_BY_SUFFIX.get(suffix)
    if form is not None and (form in COMPRESSIBLE or not packed):
        return form
    if suffix in PICKLE_SUFFIXES:
        message = f"{suffix} files are not read: loading such a file can run code in it"
        hint = "if you trust the file, save its data as Parquet (pandas: df.to_parquet) or as JSON lines"
        raise DataError("AW-DATA-04", message, where=ErrorLocation(name), hint=hint)
    message = f"unknown file format: {suffix or 'no suffix'}"
    hint = f"convert it to one of: {READABLE_FORMATS} or move it out of the folder"
    raise DataError("AW-DATA-03", message, where=ErrorLocation(name), hint=hint)


def _scan_file(path: Path, name: str, form: str, known: SourceFile | None) -> ScannedFile:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = "the file's name is not valid Unicode"
        raise DataError("AW-DATA-05", message, where=ErrorLocation(ascii(name)), hint="rename the file") from error
    now, before = time.time(), path.stat()
    signature = _format_signature(before)
    if known is not None and known.signature == signature:
        return ScannedFile(path, name, form, known.size_bytes, known.sha256, signature)
    digest, size = compute_file_digest(path)
    return ScannedFile(path, name, form, size, digest, signature, now - before.st_mtime > SETTLED_S)


def read_file_signature(path: Path) -> str:
    return _format_signature(path.stat())


def _format_signature(found: os.stat_result) -> str:
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def compute_file_digest(path: Path) -> tuple[str, int]:
    """Returns (SHA-256, bytes) of a file. Raises DataError AW-DATA-06."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            hint = "give the path of a file or a folder"
            raise DataError("AW-DATA-06", "not a regular file", where=ErrorLocation(str(path)), hint=hint)
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()

"""Scans the files of an ingest: a file is read, skipped, or refuses the ingest.

A folder is read in the order of its paths. Hidden entries, links and irregular files are skipped and reported. A file
of an unknown format refuses the whole ingest, so that no file is omitted silently, unless the user wants it skipped.
"""

import codecs
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from archwright.contract.lineage import SourceFile
from archwright.errors import DataError, ErrorLocation, from_os_error
from archwright.journal import report_step

FORMAT_BY_SUFFIX = {
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"},
    **dict.fromkeys((".txt", ".md", ".markdown"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **{".pdf": "pdf", ".docx": "docx", ".pptx": "pptx"},
    **dict.fromkeys((".xlsx", ".xls", ".xlsb", ".ods"), "workbook"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp"), "image"),
}
UTF_8 = "utf-8"
ENCODED_FORMATS = {"jsonl", "csv", "text"}
UNPACKED_RATIO = 100
REPORTED_FILES = 256
COMPRESSIBLE = {"jsonl", "csv", "json"}  # these may be compressed: NAME.csv.gz
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz"}
SETTLED_S = 2.0  # a file system may store times in steps of up to 2 s
READABLE_FORMATS = "jsonl, json, csv, parquet, txt, md, html, pdf, docx, pptx, xlsx, ods, images; jsonl.gz, csv.gz"


class ReadOptions(NamedTuple):
    """How files are chosen and read.

    `include`, `exclude`: patterns of file names, or of paths below the folder if they contain a slash. With
    `skip_unreadable` files of other formats and damaged files are left out and counted. `encoding` of text, CSV and
    JSON lines: by default that of the last ingest, or UTF-8. A file may unpack to `max_unpacked_gib`, and to 100 times
    its size.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    skip_unreadable: bool = False
    encoding: str = ""
    max_unpacked_gib: float = 4.0


class ScannedFile(NamedTuple):
    """A file to ingest; `name` is its POSIX path relative to the ingested folder.

    `stable` is False if the file may change without a change of its signature: it is younger than the file system's
    clock ticks. A `remote` file has its URL as name, and `path` is its copy. It may unpack to `max_unpacked` bytes.
    """

    path: Path
    name: str
    format: str
    size_bytes: int
    sha256: str
    signature: str
    stable: bool = True
    remote: bool = False
    encoding: str = UTF_8
    max_unpacked: int = 4 << 30

    def has_changed(self) -> bool:
        """True if the file changed since its digest was computed; the copy of a remote one belongs to this ingest."""
        return not self.remote and read_file_signature(self.path) != self.signature


class SourceScan(NamedTuple):
    """`skipped` counts the files of other formats by suffix."""

    sources: tuple[ScannedFile, ...]
    passed_over: tuple[str, ...]
    skipped: dict[str, int] = {}


def scan_sources(
    path: Path, known: Mapping[str, SourceFile] | None = None, options: ReadOptions | None = None
) -> SourceScan:
    """All files to ingest, with digests; a `known` file with the same signature is not read.

    Raises DataError AW-DATA-02 (nothing to read), -03 (unknown format), -04 (a pickle), -05, -06, -30 (unknown
    encoding); OSErrors converted.
    """
    options = options or ReadOptions()
    passed_over: list[str] = []
    skipped: Counter[str] = Counter()
    known = known or {}
    check_encoding(options.encoding)
    try:
        root = path.resolve(strict=True)
        whole = root.is_dir()
        names = _walk_folder(root, root, passed_over) if whole else [path.name]
        formats = choose_formats(names, options, skipped)
        sources = []
        for number, (name, form) in enumerate(formats.items()):
            if number % REPORTED_FILES == 0:
                report_step(f"looking for changes: file {number + 1:,} of {len(formats):,}")
            try:
                sources.append(_scan_file(root / name if whole else root, name, (form, known.get(name), options)))
            except (OSError, DataError) as error:
                if not options.skip_unreadable:
                    raise
                passed_over.append(f"{name}: {error}")
    except OSError as error:
        raise from_os_error(error) from error
    # A name may hold bytes that are no text, which nothing could print.
    printable = (line.encode(errors="backslashreplace").decode() for line in passed_over)
    scan = SourceScan(tuple(sources), tuple(printable), dict(skipped))
    check_not_empty(scan, str(path), options)
    return scan


def choose_formats(names: Iterable[str], options: ReadOptions, skipped: Counter[str]) -> dict[str, str]:
    """The chosen paths with their formats, in the order of paths; other formats are counted if they may be skipped."""
    formats = {}
    for name in sorted(filter(partial(_is_chosen, options), names), key=lambda name: name.split("/")):
        try:
            formats[name] = detect_format(name)
        except DataError:
            if not options.skip_unreadable:
                raise
            skipped[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
    return formats


def check_not_empty(scan: SourceScan, place: str, options: ReadOptions) -> None:
    """Raises DataError AW-DATA-02."""
    if not scan.sources:
        left = [*scan.passed_over, *(f"{count} of format {suffix}" for suffix, count in scan.skipped.items())]
        more = f" ({len(left)} skipped: {', '.join(left[:3])})" if left else ""
        message, hint = f"no file to ingest in the folder{more}", f"add files of these formats: {READABLE_FORMATS}"
        if options.include or options.exclude:
            hint = f"check the patterns of --include and --exclude, or {hint}"
        raise DataError("AW-DATA-02", message, where=ErrorLocation(place), hint=hint)


def check_encoding(name: str) -> None:
    """Raises DataError AW-DATA-30."""
    try:
        if name:
            b"x".decode(name, "ignore")  # not empty, or the name would not be looked up
    except LookupError as error:
        hint = "name an encoding that Python knows, such as latin-1, cp1252, shift_jis or utf-16"
        raise DataError("AW-DATA-30", str(error), where=ErrorLocation(field="encoding"), hint=hint) from error


def check_unpacked_size(source: ScannedFile, size_bytes: int) -> None:
    """Raises DataError AW-DATA-28 for a file that unpacks to more than its limit."""
    limit = max(source.max_unpacked, UNPACKED_RATIO * source.size_bytes)
    if size_bytes > limit:
        message = f"the file of {source.size_bytes:,} bytes unpacks to more than {limit / (1 << 30):,.1f} GiB"
        hint = "if you trust the file, raise the limit: --max-unpacked-gib N; nothing was changed"
        raise DataError("AW-DATA-28", message, where=ErrorLocation(source.name), hint=hint)


def _is_chosen(options: ReadOptions, name: str) -> bool:
    def matches(pattern: str) -> bool:
        return fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)

    included = not options.include or any(map(matches, options.include))
    return included and not any(map(matches, options.exclude))


def _walk_folder(folder: Path, root: Path, passed_over: list[str], start: str = "") -> Iterator[str]:
    """Yield the paths of regular files below the root."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{start}{entry.name}"
            if entry.name.startswith("."):
                passed_over.append(f"{name}: hidden")
            elif entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                passed_over.append(f"{name}: a link to a place outside of the folder")
            elif entry.is_symlink():
                passed_over.append(f"{name}: a link; its target is read at its own path")
            elif entry.is_dir():
                yield from _walk_folder(Path(entry.path), root, passed_over, f"{name}/")
            elif entry.is_file():
                yield name
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


def _scan_file(path: Path, name: str, choice: tuple[str, SourceFile | None, ReadOptions]) -> ScannedFile:
    form, known, options = choice
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = "the file's name is not valid Unicode"
        raise DataError("AW-DATA-05", message, where=ErrorLocation(ascii(name)), hint="rename the file") from error
    now, before = time.time(), path.stat()
    signature = _format_signature(before)
    stable = now - before.st_mtime > SETTLED_S
    if known is not None and known.signature == signature:
        digest, size = known.sha256, known.size_bytes
    else:
        digest, size = compute_file_digest(path)
    return set_reading(ScannedFile(path, name, form, size, digest, signature, stable), known, options)


def set_reading(source: ScannedFile, known: SourceFile | None, options: ReadOptions) -> ScannedFile:
    """The file with its encoding and its limit."""
    encoding = UTF_8
    if source.format in ENCODED_FORMATS:
        encoding = codecs.lookup(options.encoding or (known.encoding if known else UTF_8)).name
    return source._replace(encoding=encoding, max_unpacked=int(options.max_unpacked_gib * (1 << 30)))


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

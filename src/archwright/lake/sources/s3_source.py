"""Lists objects of S3 (or of a server with its interface) and copies the new ones into a folder for the readers.

An object is unchanged if size and time of its listing are; the entity tag would cost a request per object. Copies of
all new objects lie on the disk until the version is written: what does not fit is refused before the first copy.
Credentials come from the variables and files of the S3 client and are stored nowhere.
"""

import errno
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from archwright.contract.lineage import SourceFile
from archwright.errors import DataError, ErrorLocation, from_os_error
from archwright.lake.formats.source_files import (
    SETTLED_S,
    ReadOptions,
    ScannedFile,
    SourceScan,
    check_not_empty,
    choose_formats,
    set_reading,
)
from archwright.lake.lazy_modules import pa_fs
from archwright.settings import read_s3_endpoint

SCHEME = "s3://"
COPIES_AT_ONCE = 16
PIECE_BYTES = 1024 * 1024


def open_bucket() -> Any:
    scheme, _, server = read_s3_endpoint().rstrip("/").rpartition("://")
    return pa_fs.S3FileSystem(scheme=scheme or "https", endpoint_override=server or None)


def copy_objects(address: str, folder: Path, known: Mapping[str, SourceFile], options: ReadOptions) -> SourceScan:
    """All objects below `address`; the ones not `known` are copied into the folder.

    Raises DataError AW-DATA-39 (the server refused), -40 (too large).
    """
    skipped: Counter[str] = Counter()
    sources: list[ScannedFile] = []
    bucket = open_bucket()
    prefix = address.removeprefix(SCHEME).rstrip("/")
    with _translate_errors(address):
        info = bucket.get_file_info(prefix)
        whole = info.type != pa_fs.FileType.File
        found = bucket.get_file_info(pa_fs.FileSelector(prefix, recursive=True)) if whole else [info]
        start = f"{prefix}/" if whole else f"{prefix.rpartition('/')[0]}/"
        objects = {entry.path.removeprefix(start): entry for entry in found if entry.is_file}
        hidden = {name for name in objects if any(part.startswith(".") for part in name.split("/"))}
        passed_over = tuple(f"{name}: hidden" for name in sorted(hidden))
        for name, form in choose_formats(objects.keys() - hidden, options, skipped).items():
            source = _describe_object(objects[name], form, folder / str(len(sources)))
            before = known.get(source.name)
            source = set_reading(source, before, options)
            if before and (before.signature, before.encoding) == (source.signature, source.encoding):
                source = source._replace(sha256=before.sha256)
            sources.append(source)
        fresh = [source for source in sources if not source.sha256]
        _check_space(address, sum(source.size_bytes for source in fresh), folder)
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:  # a small object costs mostly the round trip
            copied = {source.name: source for source in pool.map(partial(_copy_object, bucket), fresh)}
    scan = SourceScan(tuple(copied.get(s.name, s) for s in sources), passed_over, dict(skipped))
    check_not_empty(scan, address, options)
    return scan


def _describe_object(entry: Any, form: str, path: Path) -> ScannedFile:
    name = f"{SCHEME}{entry.path}"
    signature = f"{entry.size}:{entry.mtime_ns}"
    stable = time.time() - entry.mtime_ns / 1e9 > SETTLED_S
    return ScannedFile(path, name, form, entry.size, "", signature, stable, remote=True)


def _check_space(address: str, size_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size_bytes > free // 2:  # the other half is for the table
        message = f"the new objects have {size_bytes / 1e9:,.1f} GB; the disk has {free / 1e9:,.1f} GB free"
        hint = "free disk space, or ingest one prefix after the other into the same data set"
        raise DataError("AW-DATA-40", message, where=ErrorLocation(address), hint=hint)


def _copy_object(bucket: Any, source: ScannedFile) -> ScannedFile:
    digest = hashlib.sha256()
    with bucket.open_input_stream(source.name.removeprefix(SCHEME)) as stream, open(source.path, "wb") as file:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
        size = file.tell()
    if size != source.size_bytes:
        hint = "run the command again when no program writes to the object; nothing was changed"
        raise DataError(
            "AW-DATA-08", "the object changed while it was read", where=ErrorLocation(source.name), hint=hint
        )
    return source._replace(sha256=digest.hexdigest())


@contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # the copies fill our own disk
            raise from_os_error(error) from error
        reason = " ".join(str(error).split())[:300]
        hint = "check bucket, AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise DataError("AW-DATA-39", f"S3 refused: {reason}", where=ErrorLocation(address), hint=hint) from error

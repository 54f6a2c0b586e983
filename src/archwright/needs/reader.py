"""needs.yaml -> (Needs, NeedsSource): any bytes give either Needs or one NeedsError.

Checks run cheapest first: kind and size of the file, encoding, YAML, types, rules.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.errors import ErrorLocation, NeedsError
from archwright.needs import catalog_checks, kind_fields, number_checks, text_checks
from archwright.needs.derivation import check_loads, derive_needs
from archwright.needs.needs_problem import (
    NeedsCode,
    NeedsProblem,
    NeedsTree,
    raise_first,
    to_error,
)
from archwright.needs.type_check import check_types
from archwright.needs.yaml_tree import read_tree

MAX_BYTES = 256 * 1024

_BOM = b"\xef\xbb\xbf"
# Characters that YAML forbids, and two separators that libyaml counts as line ends and editors do
# not.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|\r|\n")

# The rules are independent of each other.
_FILE_RULES = (
    text_checks.check_list_sizes,
    text_checks.check_texts,
    text_checks.check_duplicates,
    text_checks.check_references,
    text_checks.check_bases,
    text_checks.check_team,
    text_checks.check_addresses,
    number_checks.check_ranges,
    number_checks.check_pairs,
)
_CATALOG_RULES = (
    catalog_checks.check_country_codes,
    catalog_checks.check_places,
    catalog_checks.check_providers_regulations_currency,
    catalog_checks.check_languages,
    catalog_checks.check_models,
    catalog_checks.check_benchmarks,
    catalog_checks.check_machines,
)


def read_needs(path: Path, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    return parse_needs(read_needs_bytes(path), str(path), catalog)


def read_needs_bytes(path: Path) -> bytes:
    """Read at most MAX_BYTES + 1 bytes.

    The type is checked first: a pipe blocks, a device may act.
    """
    file = str(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        _require_regular(os.stat(path), file)
        descriptor = os.open(path, flags)
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            _require_regular(status, file)
            if status.st_size > MAX_BYTES:
                raise _too_large(status.st_size, file)
            return opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise NeedsError(
            NeedsCode.CANNOT_OPEN,
            f"the file cannot be read: {reason}",
            where=ErrorLocation(file),
            hint="check the path; `archwright init` writes a needs.yaml to start from",
        ) from error


def parse_needs(data: bytes, file: str, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """Read needs from bytes; `file` is their name in errors and in the source."""
    tree = parse_tree(data, file)
    digest = hashlib.sha256(data).hexdigest()
    return check_tree(tree, digest, catalog)


def parse_tree(data: bytes, file: str) -> NeedsTree:
    """Return values and lines before any of them is checked."""
    if len(data) > MAX_BYTES:
        raise _too_large(len(data), file)
    return read_tree(_decode_text(data, file), file)


def check_tree(tree: NeedsTree, digest: str, catalog: Catalog) -> tuple[Needs, NeedsSource]:
    """Check types and rules of the tree, and convert it to Needs.

    Every load, language and role is derived.
    """
    value, problems = check_types(tree.value)
    raise_first(problems, tree)
    stated_needs = convert_tree(value, tree)
    raise_first(_check_rules(stated_needs, tree.lines, catalog), tree)

    lines = dict(tree.lines)
    lines.pop("", None)
    source = NeedsSource(file=tree.file, digest=digest, lines=lines)
    needs, filled_source = derive_needs(stated_needs, source, catalog)
    raise_first(check_loads(needs), tree)
    return needs, filled_source


def _check_rules(
    needs: Needs,
    lines: Mapping[str, int],
    catalog: Catalog,
) -> Iterator[NeedsProblem]:
    """Yield the problems of a Needs of the right types.

    `lines` has the fields that the file itself sets.
    """
    for check_file in _FILE_RULES:
        yield from check_file(needs)
    yield from kind_fields.check_kind_fields(needs, lines)
    for check_names in _CATALOG_RULES:
        yield from check_names(needs, catalog)


def _require_regular(status: os.stat_result, file: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = "a pipe, socket or device"
    if stat.S_ISDIR(status.st_mode):
        kind = "a directory"
    raise NeedsError(
        NeedsCode.CANNOT_OPEN,
        f"this is {kind}, not a file",
        where=ErrorLocation(file),
        hint="give the path of the needs.yaml itself",
    )


def _too_large(size: int, file: str) -> NeedsError:
    return NeedsError(
        NeedsCode.TOO_LARGE,
        f"{size:,} bytes are too many for a needs file; the limit is {MAX_BYTES:,}",
        where=ErrorLocation(file),
        hint="describe workloads and data sets, not the data itself",
    )


def _decode_text(data: bytes, file: str) -> str:
    """Return UTF-8 text without control characters.

    A UTF-8 byte order mark at the start is dropped.
    """
    body = data.removeprefix(_BOM)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8", "replace")
        byte = body[error.start]
        raise NeedsError(
            NeedsCode.NOT_TEXT,
            f"this is not UTF-8: byte 0x{byte:02x} at offset {error.start:,}",
            where=ErrorLocation(file, _line_number(before)),
            hint="save the file as UTF-8",
        ) from error

    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        before = text[: forbidden.start()]
        raise NeedsError(
            NeedsCode.NOT_TEXT,
            f"the file contains the control character U+{ord(forbidden[0]):04X}",
            where=ErrorLocation(file, _line_number(before)),
            hint="delete it; a needs file is plain text",
        )
    return text


def _line_number(before: str) -> int:
    return len(_LINE_END.findall(before)) + 1


def convert_tree(value: object, tree: NeedsTree) -> Needs:
    """Convert a checked value; a second check if `check_types` accepts more than msgspec."""
    try:
        return msgspec.convert(value, Needs, strict=True)
    except msgspec.ValidationError as error:
        message, _, location = str(error).partition(" - at ")
        json_path = location.strip("`").removeprefix("$").removeprefix(".")
        path = json_path.split("[...]")[0]
        hint = "correct this field; the files of `archwright init` show every one"
        problem = NeedsProblem(NeedsCode.WRONG_TYPE, path, message, hint=hint)
        raise to_error(problem, tree) from error

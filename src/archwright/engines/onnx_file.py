"""Reads an ONNX file's frame, so that a damaged file is refused by us and in words, and a file that would have the
engine open other files is refused at all.

The engine resolves a tensor's external data against the working directory, even for a model given as bytes: what is
served must stand in the one file whose digest is recorded. Layout: protobuf messages of onnx/onnx.proto
(github.com/onnx/onnx/blob/main/onnx/onnx.proto); tensors themselves are skipped, not read. What each number of an
input and an output means is kept by us in the file's metadata, as `Notes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record
from archwright.errors import EngineError, ErrorLocation

NOTES_KEY = "archwright"
SIZE_LIMIT_BYTES = 512 << 20
# Far above any classifier (one of 1,000 trees has some 40 fields), far below what would stall us.
FIELD_LIMIT = 1 << 20
LABEL_LIMIT = 1000
FEATURE_LIMIT = 1 << 20

# Message -> the fields that hold messages which may hold a tensor, by number.
INSIDE = {
    "model": {7: "graph", 14: "entry", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
}
GRAPH_FIELD, EXTERNAL_FIELD, LOCATION_FIELD = 7, 13, 14
VARINT, WIDE, BYTES, NARROW = 0, 1, 2, 5


class Notes(Record):
    """What the numbers mean: `labels` name the outputs in order, `shape` is one item's (row by row, channels last),
    `features` name the inputs in order where they have names, `missing` are those that may be absent."""

    labels: tuple[str, ...]
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= LABEL_LIMIT or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be 2 to {LABEL_LIMIT} different texts")
        if not self.shape or min(self.shape) < 1 or self.size > FEATURE_LIMIT:
            raise ValueError(f"shape must make 1 to {FEATURE_LIMIT} numbers")
        if self.features and (len(self.features) != self.size or len(set(self.features)) != self.size):
            raise ValueError("features must name every input once")
        if not set(self.missing) <= set(self.features):
            raise ValueError("missing must be among the features")

    @property
    def size(self) -> int:
        """How many numbers an item has."""
        return prod(self.shape)


class OnnxFile(NamedTuple):
    """A whole file: its bytes and our notes in it."""

    data: bytes
    notes: Notes


class Damaged(ValueError):
    """What is wrong with the file; becomes the message of AW-ENG-10."""


class External(ValueError):
    """The file refers to others; becomes AW-ENG-11."""


class _Field(NamedTuple):
    """`value` is a varint's; `begin` and `end` are where the bytes of any other field lie."""

    number: int
    wire: int
    value: int
    begin: int
    end: int


def read_onnx(path: Path, sha256: str | None = None) -> OnnxFile:
    """The file, with the digest it must have. Raises EngineError AW-ENG-10 (damaged, too large, or without our notes)
    and AW-ENG-11 (parts of it lie elsewhere)."""
    hint = "train it again, or take the file from a backup of the home"
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
        if len(data) > SIZE_LIMIT_BYTES:
            raise Damaged(f"it is larger than {SIZE_LIMIT_BYTES} bytes")
        if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise Damaged(f"its SHA-256 is {found}, not {sha256}")
        entries = _entries(data)
        if NOTES_KEY not in entries:
            raise Damaged("it does not say what its inputs and outputs are")
        return OnnxFile(data, msgspec.json.decode(entries[NOTES_KEY], type=Notes))
    except External as error:
        message = f"the model refuses to be one file: {error}"
        hint = "save it with its tensors inside"
        raise EngineError("AW-ENG-11", message, where=ErrorLocation(str(path)), hint=hint) from error
    except (Damaged, msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"not a whole ONNX model of ours: {error}"
        raise EngineError("AW-ENG-10", message, where=ErrorLocation(str(path)), hint=hint) from error


def _entries(data: bytes) -> dict[str, bytes]:
    """The model's metadata, after every message that may hold a tensor was walked."""
    entries: dict[str, bytes] = {}
    waiting, graphs, seen = [("model", 0, len(data))], 0, 0
    while waiting:
        kind, begin, end = waiting.pop()
        texts: dict[int, bytes] = {}
        for field in _fields(data, begin, end):
            seen += 1
            if seen > FIELD_LIMIT:
                raise Damaged(f"it has more than {FIELD_LIMIT} parts")
            inner = INSIDE.get(kind, {}).get(field.number)
            if inner is not None and field.wire == BYTES:
                waiting.append((inner, field.begin, field.end))
            if kind == "model" and field.number == GRAPH_FIELD:
                graphs += 1
            elif kind == "tensor":
                _check_inside(field)
            elif kind == "entry" and field.wire == BYTES:
                texts[field.number] = data[field.begin : field.end]
        if kind == "entry":
            entries[texts.get(1, b"").decode("utf-8")] = texts.get(2, b"")
    if graphs != 1:
        raise Damaged(f"it has {graphs} graphs")
    return entries


def _check_inside(field: _Field) -> None:
    if field.number == EXTERNAL_FIELD or (field.number == LOCATION_FIELD and field.value):
        raise External("a tensor of it lies in another file")


def _fields(data: bytes, begin: int, end: int) -> Iterator[_Field]:
    at = begin
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        value, first = 0, at
        if wire == VARINT:
            value, at = _varint(data, at, end)
        elif wire == BYTES:
            size, first = _varint(data, at, end)
            at = first + size
        elif wire in (WIDE, NARROW):
            at += 8 if wire == WIDE else 4
        else:
            raise Damaged(f"byte {at} is of no known kind")
        if at > end or number == 0:
            raise Damaged(f"it breaks off at byte {first}")
        yield _Field(number, wire, value, first, at)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise Damaged(f"it breaks off at byte {at}")

"""Reads the structure of an ONNX file; refuses damaged files and files that refer to files elsewhere.

onnxruntime resolves external data of a tensor against the working directory, even for a model given as bytes. The
digest of a classifier covers one file, so all its tensors must be in it; a model folder may hold more files. Layout:
protobuf messages of onnx/onnx.proto (github.com/onnx/onnx/blob/main/onnx/onnx.proto); the data of tensors is skipped.
The metadata of a classifier holds the meaning of inputs and outputs, as `ModelSignature`.
"""

import hashlib
from collections.abc import Iterator
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record
from archwright.errors import EngineError, ErrorLocation

SIGNATURE_KEY = "archwright"
SIZE_LIMIT_BYTES = 512 << 20
# Far above any classifier (with 1,000 trees it has some 40 fields), and still quick to read.
FIELD_LIMIT = 1 << 20
LABEL_LIMIT = 1000
FEATURE_LIMIT = 1 << 20
GRAPH_FIELD, EXTERNAL_FIELD, LOCATION_FIELD = 7, 13, 14

# Message -> number of each field whose messages may contain a tensor.
NESTED_MESSAGES = {
    "model": {7: "graph", 14: "entry", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {EXTERNAL_FIELD: "external"},
}
VARINT, WIDE, BYTES, NARROW = 0, 1, 2, 5


class ModelSignature(Record):
    """The meaning of inputs and outputs: `labels` name the outputs in order, `shape` is that of one item.

    The numbers of an item are in order row by row, channels last. `features` name the inputs in order if they have
    names; the features in `missing` may be absent.
    """

    labels: tuple[str, ...]
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= LABEL_LIMIT or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be 2 to {LABEL_LIMIT} different texts")
        if not self.shape or min(self.shape) < 1 or self.size > FEATURE_LIMIT:
            raise ValueError(f"shape must have 1 to {FEATURE_LIMIT} numbers")
        if self.features and (len(self.features) != self.size or len(set(self.features)) != self.size):
            raise ValueError("features must name every input once")
        if not set(self.missing) <= set(self.features):
            raise ValueError("missing must be among the features")

    @property
    def size(self) -> int:
        """The count of numbers of an item."""
        return prod(self.shape)


class OnnxFile(NamedTuple):
    """A complete file: its bytes and the signature in its metadata."""

    data: bytes
    notes: ModelSignature


class DamagedOnnx(ValueError):
    """The message is the defect of the file; becomes AW-ENG-10."""


class ExternalTensorData(ValueError):
    """The file refers to files elsewhere; becomes AW-ENG-11."""


class _ProtobufField(NamedTuple):
    """`value` is the value of a varint; the bytes of any other field are at `begin` to `end`."""

    number: int
    wire: int
    value: int
    begin: int
    end: int


def read_onnx(path: Path, sha256: str | None = None) -> OnnxFile:
    """Raises EngineError AW-ENG-10 (damaged, too large, no signature), AW-ENG-11 (data in another file)."""
    where = ErrorLocation(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
        if len(data) > SIZE_LIMIT_BYTES:
            raise DamagedOnnx(f"it is larger than {SIZE_LIMIT_BYTES} bytes")
        if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise DamagedOnnx(f"its SHA-256 is {found}, not {sha256}")
        entries, external = _read_structure(data)
        if external:
            raise ExternalTensorData("the data of a tensor is in another file")
        if SIGNATURE_KEY not in entries:
            raise DamagedOnnx("it has no description of its inputs and outputs")
        return OnnxFile(data, msgspec.json.decode(entries[SIGNATURE_KEY], type=ModelSignature))
    except ExternalTensorData as error:
        message = f"the model is not in one file: {error}"
        hint = "save the model with its tensors in the file"
        raise EngineError("AW-ENG-11", message, where=where, hint=hint) from error
    except (DamagedOnnx, msgspec.MsgspecError, UnicodeDecodeError) as error:
        hint = "train the model again, or copy the file from a restored backup: archwright restore --into DIR"
        message = f"not a complete ONNX model of archwright: {error}"
        raise EngineError("AW-ENG-10", message, where=where, hint=hint) from error


def check_folder_onnx(path: Path, hint: str) -> None:
    """Check that the file is complete and refers only to files beside it. Raises EngineError AW-ENG-10, AW-ENG-11."""
    where = ErrorLocation(str(path))
    try:
        if not path.is_file() or not path.stat().st_size:
            raise DamagedOnnx("it is missing or empty")
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            _, external = _read_structure(data)
        for name in external - {""} or external:
            beside = path.with_name(name) if name and "/" not in name and name not in (".", "..") else None
            if beside is None or beside.is_symlink() or not beside.is_file():
                raise ExternalTensorData(f"a tensor is in the file {name[:80]!r}, which is not in the model's folder")
    except ExternalTensorData as error:
        raise EngineError("AW-ENG-11", f"the model is not complete: {error}", where=where, hint=hint) from error
    except (DamagedOnnx, UnicodeDecodeError) as error:
        raise EngineError("AW-ENG-10", f"not a complete ONNX model: {error}", where=where, hint=hint) from error


def _read_structure(data: bytes | mmap) -> tuple[dict[str, bytes], set[str]]:
    """Return the metadata, and the files that tensors refer to, with "" for any such tensor."""
    metadata, external = dict[str, bytes](), set[str]()
    waiting, graphs, seen = [("model", 0, len(data))], 0, 0
    while waiting:
        kind, begin, end = waiting.pop()
        texts: dict[int, bytes] = {}
        for field in _iterate_fields(data, begin, end):
            seen += 1
            if seen > FIELD_LIMIT:
                raise DamagedOnnx(f"it has more than {FIELD_LIMIT} parts")
            inner = NESTED_MESSAGES.get(kind, {}).get(field.number)
            if inner is not None and field.wire == BYTES:
                waiting.append((inner, field.begin, field.end))
            graphs += kind == "model" and field.number == GRAPH_FIELD
            if kind == "tensor" and (
                field.number == EXTERNAL_FIELD or (field.number == LOCATION_FIELD and field.value)
            ):
                external.add("")
            elif kind in ("entry", "external") and field.wire == BYTES:
                texts[field.number] = data[field.begin : field.end]
        if kind == "entry":
            metadata[texts.get(1, b"").decode("utf-8")] = texts.get(2, b"")
        elif texts.get(1) == b"location":
            external.add(texts.get(2, b"").decode("utf-8"))
    if graphs != 1:
        raise DamagedOnnx(f"it has {graphs} graphs")
    return metadata, external


def _iterate_fields(data: bytes | mmap, begin: int, end: int) -> Iterator[_ProtobufField]:
    at = begin
    while at < end:
        key, at = _read_varint(data, at, end)
        number, wire = key >> 3, key & 7
        value, first = 0, at
        if wire == VARINT:
            value, at = _read_varint(data, at, end)
        elif wire == BYTES:
            size, first = _read_varint(data, at, end)
            at = first + size
        elif wire in (WIDE, NARROW):
            at += 8 if wire == WIDE else 4
        else:
            raise DamagedOnnx(f"the field before byte {at} has an unknown type")
        if at > end or number == 0:
            raise DamagedOnnx(f"it ends early at byte {first}")
        yield _ProtobufField(number, wire, value, first, at)


def _read_varint(data: bytes | mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise DamagedOnnx(f"it ends early at byte {at}")

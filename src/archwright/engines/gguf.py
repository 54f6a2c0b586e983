"""Reads the header of a GGUF file and refuses a damaged file with a reason before the engine opens it.

The engine answers a damaged file with "failed to init", or reads past the end of the mapped file, which kills the
process. Layout: magic, version, counts, key-values, tensor infos, padding, data
(github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import NamedTuple

from archwright.errors import EngineError, ErrorLocation

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far above any real model (a 61-layer mixture of experts has some 1,100 tensors), and still quick to read.
COUNT_LIMIT = 1 << 20
NAME_LIMIT_BYTES = 1 << 16
DIMENSION_LIMIT = 4
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

STRING, ARRAY = 8, 9
# Value type -> how it is packed: u8 i8 u16 i16 u32 i32 f32 bool, u64 i64 f64.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# Tensor type -> (weights per block, bytes per block), from ggml's block structures. Only the start of a tensor is
# checked if its type is newer than this table.
BLOCK_SIZES = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    30: (1, 2),  # BF16
}


class GgufContents(NamedTuple):
    """Single values by key (no arrays), and the shape of each tensor, fastest dimension first."""

    values: dict[str, str | int | float | bool]
    shapes: dict[str, tuple[int, ...]]


class DamagedGguf(ValueError):
    """The message is the defect of the file; becomes AW-ENG-05."""


def read_gguf(path: Path) -> GgufContents:
    """The contents of the header, if every tensor ends within the file. Raises EngineError AW-ENG-05."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(data).read_contents()
    except (ValueError, struct.error) as error:
        # An empty file cannot be mapped (ValueError); a read past the end is a struct.error.
        reason = str(error) if isinstance(error, DamagedGguf) else "it ends inside its header"
        hint = "remove the file, then run `archwright models fetch` with the model's name"
        message = f"not a complete GGUF model file: {reason}"
        raise EngineError("AW-ENG-05", message, where=ErrorLocation(str(path)), hint=hint) from error


class _HeaderReader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._alignment = DEFAULT_ALIGNMENT
        self._values: dict[str, str | int | float | bool] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def read_contents(self) -> GgufContents:
        if self._data[:4] != MAGIC:
            raise DamagedGguf("it does not begin with GGUF")
        self._at = 4
        version = self._read_number("<I", 4)
        if version not in VERSIONS:
            raise DamagedGguf(f"version {version} is not one of the supported versions {VERSIONS}")
        tensors, keys = self._read_count("tensors"), self._read_count("keys")
        for _ in range(keys):
            self._read_key_value()
        ends = [self._read_tensor_end() for _ in range(tensors)]
        start = -(-self._at // self._alignment) * self._alignment
        missing = start + max(ends, default=0) - len(self._data)
        if missing > 0:
            raise DamagedGguf(f"{missing} bytes are missing at its end")
        return GgufContents(self._values, self._shapes)

    def _read_number(self, form: str, size: int) -> int:
        (number,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return int(number)

    def _read_count(self, what: str) -> int:
        count = self._read_number("<Q", 8)
        if count > COUNT_LIMIT:
            raise DamagedGguf(f"it declares {count} {what}")
        return count

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise DamagedGguf("it ends inside its header")

    def _read_text(self, limit_bytes: int | None = None) -> str:
        size = self._skip_text()
        if limit_bytes is not None and size > limit_bytes:
            raise DamagedGguf(f"it has a name of {size} bytes")
        return self._data[self._at - size : self._at].decode("utf-8", "replace")

    def _skip_text(self) -> int:
        """Skip a text without copying it, for example a word of a vocabulary. Returns its bytes."""
        size = self._read_number("<Q", 8)
        self._skip(size)
        return size

    def _read_key_value(self) -> None:
        key = self._read_text(NAME_LIMIT_BYTES)
        kind = self._read_number("<I", 4)
        if key == ALIGNMENT_KEY and kind == 4:
            self._alignment = self._read_number("<I", 4)
            if self._alignment < 1 or self._alignment & (self._alignment - 1):
                raise DamagedGguf(f"the alignment {self._alignment} is not a power of two")
            return
        if kind == ARRAY:
            self._skip_array()
        else:
            self._values[key] = self._read_value(kind)

    def _read_value(self, kind: int) -> str | int | float | bool:
        if kind == STRING:
            return self._read_text()
        if kind not in SCALARS:
            raise DamagedGguf(f"a value has the unknown type {kind}")
        begin, form = self._at, SCALARS[kind]
        self._skip(struct.calcsize(form))
        value: int | float | bool = struct.unpack_from(form, self._data, begin)[0]
        return value

    def _skip_array(self) -> None:
        kind = self._read_number("<I", 4)
        count = self._read_number("<Q", 8)
        if kind in SCALARS:
            self._skip(count * struct.calcsize(SCALARS[kind]))
            return
        if kind != STRING or count > COUNT_LIMIT:
            raise DamagedGguf(f"an array of {count} values of type {kind} cannot be read")
        for _ in range(count):
            self._skip_text()

    def _read_tensor_end(self) -> int:
        """The tensor's end in bytes from the start of the data."""
        name = self._read_text(NAME_LIMIT_BYTES)
        rank = self._read_number("<I", 4)
        if rank > DIMENSION_LIMIT:
            raise DamagedGguf(f"a tensor has {rank} dimensions")
        self._shapes[name] = shape = tuple(self._read_number("<Q", 8) for _ in range(rank))
        weights = prod(shape)
        kind = self._read_number("<I", 4)
        offset = self._read_number("<Q", 8)
        block_weights, block_bytes = BLOCK_SIZES.get(kind, (1, 0))
        return offset + weights // block_weights * block_bytes

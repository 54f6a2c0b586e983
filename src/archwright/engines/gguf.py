"""Reads the header of a GGUF file and refuses a damaged file with a reason before the engine opens it.

The engine answers a damaged file with "failed to init", or reads past the end of the mapped file, which kills the
process. Layout: magic, version, counts, key-values, tensor infos, padding, data
(github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import mmap
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from archwright.engines.special_tokens import MARK_BEGINNINGS, is_special
from archwright.errors import EngineError, ErrorLocation

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far above any real model (a 61-layer mixture of experts has some 1,100 tensors), and still quick to read.
COUNT_LIMIT = 1 << 20
NAME_LIMIT_BYTES = 1 << 16
DIMENSION_LIMIT = 4
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
TOKENS_KEY, TOKEN_TYPES_KEY = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
# Token types: 2 unknown, 3 control. Text of users never becomes one of them.
SPECIAL_TYPES = frozenset({2, 3})

UINT32, INT32, STRING, ARRAY = 4, 5, 8, 9
# Value type -> how it is packed: u8 i8 u16 i16 u32 i32 f32 bool, u64 i64 f64.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# Tensor type -> (weights per block, bytes per block), from ggml's block structures. No other type is accepted. Q8_1 (9)
# is missing, because it exists only during a computation.
BLOCK_SIZES = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8)},  # F32 F16 BF16 F64
    **{24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8)},  # I8 I16 I32 I64
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},  # Q4_0 Q4_1 Q5_0 Q5_1 Q8_0
    **{10: (256, 84), 11: (256, 110), 12: (256, 144)},  # Q2_K Q3_K Q4_K
    **{13: (256, 176), 14: (256, 210), 15: (256, 292)},  # Q5_K Q6_K Q8_K
    **{16: (256, 66), 17: (256, 74), 22: (256, 82)},  # IQ2_XXS IQ2_XS IQ2_S
    **{18: (256, 98), 21: (256, 110), 19: (256, 50), 29: (256, 56)},  # IQ3_XXS IQ3_S IQ1_S IQ1_M
    **{20: (32, 18), 23: (256, 136), 34: (256, 54), 35: (256, 66)},  # IQ4_NL IQ4_XS TQ1_0 TQ2_0
    **{39: (32, 17), 40: (64, 36), 41: (128, 18)},  # MXFP4 NVFP4 Q1_0
}


class GgufContents(NamedTuple):
    """Single values by key, the length of each array, and shape (fastest dimension first) and type of each tensor.

    `special_tokens` of the tokeniser: its tokens that no text may contain (special_tokens.py)."""

    values: dict[str, str | int | float | bool]
    shapes: dict[str, tuple[int, ...]]
    lengths: dict[str, int]
    types: dict[str, int]
    special_tokens: tuple[str, ...] = ()


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
        hint = "copy the file from its source again; a fetched model: `archwright models remove`, then `models fetch`"
        message = f"not a complete GGUF model file: {reason}"
        raise EngineError("AW-ENG-05", message, where=ErrorLocation(str(path)), hint=hint) from error


class _HeaderReader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._alignment = DEFAULT_ALIGNMENT
        self._keys: set[str] = set()
        self._values: dict[str, str | int | float | bool] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._lengths: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._tokens: list[bytes] = []
        self._token_types: Sequence[int] = ()

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
        end = 0
        for _ in range(tensors):
            end = self._read_tensor_end(self._align(end))
        missing = self._align(self._at) + end - len(self._data)
        if missing > 0:
            raise DamagedGguf(f"{missing} bytes are missing at its end")
        return GgufContents(self._values, self._shapes, self._lengths, self._types, self._list_special_tokens())

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

    def _align(self, place: int) -> int:
        return -(-place // self._alignment) * self._alignment

    def _read_name(self) -> str:
        size = self._skip_text()
        if size > NAME_LIMIT_BYTES:
            raise DamagedGguf(f"it has a name of {size} bytes")
        try:
            return self._data[self._at - size : self._at].decode()
        except UnicodeDecodeError as error:
            raise DamagedGguf("it has a name that is not UTF-8") from error

    def _skip_text(self) -> int:
        """Skip a text without copying it, for example a word of a vocabulary. Returns its bytes."""
        size = self._read_number("<Q", 8)
        self._skip(size)
        return size

    def _read_key_value(self) -> None:
        key = self._read_name()
        if key in self._keys:
            raise DamagedGguf(f"two keys have the name {key[:80]}")
        self._keys.add(key)
        kind = self._read_number("<I", 4)
        if key == ALIGNMENT_KEY:
            if kind != UINT32:
                raise DamagedGguf(f"the alignment has the type {kind}")
            self._alignment = self._read_number("<I", 4)
            if self._alignment < 1 or self._alignment & (self._alignment - 1):
                raise DamagedGguf(f"the alignment {self._alignment} is not a power of two")
            return
        if kind == ARRAY:
            self._lengths[key] = self._skip_array(key)
        else:
            self._values[key] = self._read_value(kind)

    def _read_value(self, kind: int) -> str | int | float | bool:
        if kind == STRING:
            size = self._skip_text()
            return self._data[self._at - size : self._at].decode("utf-8", "replace")
        if kind not in SCALARS:
            raise DamagedGguf(f"a value has the unknown type {kind}")
        begin, form = self._at, SCALARS[kind]
        self._skip(struct.calcsize(form))
        value: int | float | bool = struct.unpack_from(form, self._data, begin)[0]
        return value

    def _skip_array(self, key: str) -> int:
        kind = self._read_number("<I", 4)
        count = self._read_number("<Q", 8)
        begin = self._at
        if kind in SCALARS:
            self._skip(count * struct.calcsize(SCALARS[kind]))
            if key == TOKEN_TYPES_KEY and kind in (UINT32, INT32):
                self._token_types = struct.unpack_from(f"<{count}{SCALARS[kind][-1]}", self._data, begin)
            return count
        if kind != STRING or count > COUNT_LIMIT:
            raise DamagedGguf(f"an array of {count} values of type {kind} cannot be read")
        for _ in range(count):
            size = self._skip_text()
            if key == TOKENS_KEY:
                self._tokens.append(self._data[self._at - size : self._at])
        return count

    def _list_special_tokens(self) -> tuple[str, ...]:
        special: list[str] = []
        for text, kind in zip(self._tokens, self._token_types, strict=False):
            stated = kind in SPECIAL_TYPES
            if stated or text.startswith(MARK_BEGINNINGS):
                token = text.decode("utf-8", "replace")
                if is_special(token, stated=stated):
                    special.append(token)
        return tuple(special)

    def _read_tensor_end(self, begin: int) -> int:
        """The tensor's end in bytes from the start of the data. The engine requires each tensor at the next `begin`."""
        name = self._read_name()
        if name in self._shapes:
            raise DamagedGguf(f"two tensors have the name {name[:80]}")
        rank = self._read_number("<I", 4)
        if not 1 <= rank <= DIMENSION_LIMIT:
            raise DamagedGguf(f"a tensor has {rank} dimensions")
        self._shapes[name] = shape = tuple(self._read_number("<Q", 8) for _ in range(rank))
        kind = self._read_number("<I", 4)
        offset = self._read_number("<Q", 8)
        if kind not in BLOCK_SIZES:
            raise DamagedGguf(f"a tensor has the unknown type {kind}")
        self._types[name] = kind
        block_weights, block_bytes = BLOCK_SIZES[kind]
        if 0 in shape:
            raise DamagedGguf("a tensor has a dimension of 0")
        if shape[0] % block_weights:
            raise DamagedGguf(f"a tensor has {shape[0]} weights in a row, which is not a multiple of {block_weights}")
        if offset != begin:
            raise DamagedGguf(f"a tensor begins at byte {offset} instead of {begin}")
        return begin + prod(shape) // block_weights * block_bytes

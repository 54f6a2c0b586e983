from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.engines.gguf import read_gguf
from archwright.errors import EngineError
from archwright.home import Home

from ..tools.checks import refuses
from .conftest import SMALL_MODEL


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _array(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + data


KEYS = (
    _key(b"general.alignment", 4, struct.pack("<I", 64)),
    _key(b"general.name", 8, _text(b"tiny")),
    _key(b"an.integer", 5, struct.pack("<i", -1)),
    _key(b"a.truth", 7, b"\1"),
    _key(b"numbers", 9, _array(6, 3, struct.pack("<3f", 1, 2, 3))),
    _key(b"words", 9, _array(8, 2, _text(b"a") + _text(b"bc"))),
)
TENSORS = (_tensor(b"a", (32, 2), 3, 0), _tensor(b"b", (4,), 0, 64))


def _file(
    keys: tuple[bytes, ...] = KEYS, tensors: tuple[bytes, ...] = TENSORS, data: int = 80, version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    return head + b"\0" * (-len(head) % 64) + b"\0" * data


def _check(folder: Path, content: bytes) -> str:
    path = folder / "m.gguf"
    path.write_bytes(content)
    with refuses("AW-ENG-05") as refused:
        read_gguf(path)
    assert str(path) in str(refused.value.where)
    return refused.value.message


def test_single_values_and_shapes_of_a_whole_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(_file())
    assert len(read_gguf(path).shapes) == 2
    path.write_bytes(_file(keys=(), tensors=(), data=8, version=2))
    assert read_gguf(path) == ({}, {}, {}, {}, ())
    more = (_key(b"a.float", 6, struct.pack("<f", 0.5)), _key(b"a.long", 10, struct.pack("<Q", 1 << 40)))
    path.write_bytes(_file(keys=(*KEYS, *more)))
    contents = read_gguf(path)
    wanted = {"general.name": "tiny", "an.integer": -1, "a.truth": True, "a.float": 0.5, "a.long": 1 << 40}
    assert contents.values == wanted  # no arrays
    assert contents.shapes == {"a": (32, 2), "b": (4,)} and set(contents.types) == {"a", "b"}
    assert contents.lengths == {"numbers": 3, "words": 2}


def test_the_real_model_says_its_heads(model_home: Home) -> None:
    contents = read_gguf(model_home.model(SMALL_MODEL.sha256))
    assert contents.values["llama.attention.head_count"] == 9
    assert contents.values["general.license"] == "apache-2.0"
    assert contents.shapes["blk.0.attn_k.weight"] == (576, 192) and len(contents.shapes) == 272


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends inside its header"),
        (b"GGU", "does not begin"),
        (b"PK\3\4" + b"\0" * 100, "does not begin"),
        (b"GGUF", "ends inside its header"),
        (_file(version=1), "version 1"),
        (_file()[:-1], "1 bytes are missing"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "keys"),
        (_file(keys=(_key(b"x", 99, b""),)), "unknown type 99"),
        (_file(keys=(_key(b"x", 9, _array(9, 1, b"")),)), "array of 1 values of type 9"),
        (_file(keys=(_key(b"x", 9, _array(8, 1 << 40, b"")),)), "array of"),
        (_file(keys=(_key(b"x", 9, _array(6, 1 << 40, b"")),)), "ends inside its header"),
        (_file(keys=(_key(b"n" * 70_000, 7, b"\1"),)), "a name of 70000 bytes"),
        (_file(keys=(_key(b"general.alignment", 4, struct.pack("<I", 0)),)), "alignment 0"),
        (_file(keys=(_key(b"general.alignment", 4, struct.pack("<I", 33)),)), "alignment 33"),
        (_file(tensors=(_tensor(b"a", (1, 1, 1, 1, 1), 0, 0),)), "5 dimensions"),
        (_file(tensors=(_tensor(b"a", (1 << 62, 1 << 62), 0, 0),)), "bytes are missing"),
        # Holes that the engine or another reader would run into.
        (_file(tensors=(_tensor(b"a", (1 << 40,), 999, 0),)), "unknown type 999"),
        (_file(tensors=(_tensor(b"a", (1 << 40,), 31, 0),)), "unknown type 31"),
        (_file(tensors=(_tensor(b"a", (1 << 40,), 16, 0),)), "bytes are missing"),
        (_file(tensors=(_tensor(b"a", (31,), 8, 0),)), "31 weights in a row, which is not a multiple of 32"),
        (_file(tensors=(_tensor(b"a", (2, 32), 8, 0),)), "2 weights in a row"),
        (_file(tensors=(_tensor(b"a", (4, 0), 0, 0),)), "a dimension of 0"),
        (_file(tensors=(_tensor(b"a", (), 0, 0),)), "0 dimensions"),
        (_file(tensors=(_tensor(b"a", (1 << 32, 1 << 32), 0, 0),)), "bytes are missing"),
        (_file(tensors=(_tensor(b"a", (4,), 0, 0), _tensor(b"b", (4,), 0, 0))), "begins at byte 0 instead of 64"),
        (_file(tensors=(_tensor(b"a", (4,), 0, 0), _tensor(b"b", (4,), 0, 16))), "begins at byte 16 instead of 64"),
        (_file(tensors=(_tensor(b"a", (4,), 0, 1),)), "begins at byte 1 instead of 0"),
        (_file(tensors=(_tensor(b"a", (4,), 0, 0), _tensor(b"a", (4,), 0, 64))), "two tensors have the name a"),
        (_file(keys=(KEYS[0], KEYS[0])), "two keys have the name general.alignment"),
        (_file(keys=(KEYS[4], KEYS[4])), "two keys have the name numbers"),
        (_file(keys=(_key(b"general.alignment", 10, struct.pack("<Q", 32)),)), "alignment has the type 10"),
        (_file(keys=(_key(b"\xff\xfe", 7, b"\1"),)), "a name that is not UTF-8"),
        (_file(tensors=(_tensor(b"\xff", (4,), 0, 0),)), "a name that is not UTF-8"),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in _check(tmp_path, content)


@pytest.mark.parametrize("length", range(0, len(_file()), 7))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    _check(tmp_path, _file()[:length])


@given(at=st.integers(4, len(_file()) - 81), byte=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte_never_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    content = bytearray(_file())
    content[at] = byte
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(content)
    try:
        read_gguf(path)
    except EngineError as refused:
        assert refused.code == "AW-ENG-05"

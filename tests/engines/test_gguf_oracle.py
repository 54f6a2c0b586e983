"""Damaged GGUF files: the package `gguf` must read every file that our reader accepts, with the same tensors."""

from __future__ import annotations

import random
import struct
from math import prod
from pathlib import Path

import gguf
import pytest
from gguf.constants import GGML_QUANT_SIZES

from archwright.engines.gguf import BLOCK_SIZES, SCALARS, read_gguf
from archwright.errors import EngineError

SHORT, LONG = 3_000, 100_000
NUMBERS = [0, 1, 2, 3, 4, 5, 8, 9, 16, 31, 32, 33, 64, 255, 256, 999, *(1 << bits for bits in (20, 31, 32, 40, 62, 63))]
COMPUTED_ONLY = {gguf.GGMLQuantizationType.Q8_1}


def text(chance: random.Random, stem: str) -> bytes:
    name = f"{stem}{chance.randrange(40)}".encode()
    return struct.pack("<Q", len(name)) + name


def value(chance: random.Random) -> bytes:
    kind = chance.choice([*SCALARS, 8, 9])
    if kind == 8:
        return struct.pack("<I", 8) + text(chance, "word")
    if kind == 9:
        item, count = chance.choice([*SCALARS, 8]), chance.randrange(4)
        items = b"".join(
            text(chance, "w") if item == 8 else bytes(struct.calcsize(SCALARS[item])) for _ in range(count)
        )
        return struct.pack("<IIQ", 9, item, count) + items
    return struct.pack("<I", kind) + chance.randbytes(struct.calcsize(SCALARS[kind]))


def generate(chance: random.Random) -> bytearray:
    """A file of up to six keys and tensors; most are valid, some repeat a name."""
    alignment = chance.choice((32, 32, 64, 1, 8))
    keys = [text(chance, "key") + value(chance) for _ in range(chance.randrange(6))]
    if alignment != 32:
        name = b"general.alignment"
        keys.append(struct.pack("<Q", len(name)) + name + struct.pack("<II", 4, alignment))
    end, tensors = 0, []
    for _ in range(chance.randrange(6)):
        kind = chance.choice([*BLOCK_SIZES])
        per_block, size = BLOCK_SIZES[kind]
        shape = [per_block * chance.randint(1, 3), *(chance.randint(1, 3) for _ in range(chance.randrange(4)))]
        offset = -(-end // alignment) * alignment
        tensors.append(text(chance, "blk") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        end = offset + prod(shape) // per_block * size
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    return bytearray(head + bytes(-len(head) % alignment + end))


def damage(chance: random.Random, data: bytearray) -> bytearray:
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        at, kind = chance.randrange(len(data)), chance.randrange(6)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.choice((1, 4, 8, 32))]
        elif kind == 2:
            data[at:at] = bytes(chance.choice((1, 4, 8, 32)))
        elif kind == 3:
            form = chance.choice(("<Q", "<I"))
            number = struct.pack("<Q", chance.choice(NUMBERS))[: struct.calcsize(form)]
            data[at : at + len(number)] = number
        elif kind == 4:
            other = chance.randrange(len(data))
            data[at : at + 32] = data[other : other + 32]
        else:
            data[at] ^= 1 << chance.randrange(8)
        if not data:
            break
    return data


def check(path: Path, data: bytes) -> bool:
    """Return True if the file was accepted; fails if the oracle reads it differently or refuses it."""
    path.write_bytes(data)
    try:
        contents = read_gguf(path)
    except EngineError as refused:
        assert refused.code == "AW-ENG-05"
        return False
    oracle = gguf.GGUFReader(path)
    shapes = {tensor.name: tuple(tensor.shape.tolist()) for tensor in oracle.tensors}
    assert contents.shapes == shapes, data.hex()
    end = oracle.data_offset
    for tensor in oracle.tensors:
        assert tensor.data_offset >= end and tensor.data_offset % oracle.alignment == 0, data.hex()
        end = tensor.data_offset + tensor.n_bytes
    assert end <= len(data) or not oracle.tensors, data.hex()
    single = [name for name, field in oracle.fields.items() if field.types[0] != gguf.GGUFValueType.ARRAY]
    own = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.alignment"}
    assert set(contents.values) == {*single} - own, data.hex()
    return True


def fuzz(path: Path, seed: int, count: int) -> None:
    chance = random.Random(seed)
    accepted = sum(check(path, bytes(damage(chance, generate(chance)))) for _ in range(count))
    assert count * 0.1 < accepted < count * 0.9


def test_the_table_of_types_is_that_of_the_package() -> None:
    table = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items() if kind not in COMPUTED_ONLY}
    assert table == BLOCK_SIZES


def test_the_package_reads_every_damaged_file_that_is_accepted(tmp_path: Path) -> None:
    fuzz(tmp_path / "m.gguf", 15, SHORT)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2])
def test_the_package_reads_every_of_many_damaged_files_that_are_accepted(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path / "m.gguf", seed, LONG)

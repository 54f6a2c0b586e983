from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from archwright.home import Home
from archwright.training import atomic_directory, base_model, task_registry

from ..tools.checks import refuses, run_together
from .tiny_model import NAME, Tiny


class Converter:
    """Copies the twin that was converted once, and counts."""

    def __init__(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._tiny = tiny
        monkeypatch.setattr(base_model, "_run_dequantisation", self._copy)

    def _copy(self, source: Path, folder: Path, model: str) -> None:
        self.times += 1
        for path in self._tiny.twin.iterdir():
            if path.name != atomic_directory.MANIFEST:
                shutil.copy(path, folder)


@pytest.fixture
def fetched(home: Home, tiny: Tiny) -> Home:
    """A home with the model's file and no twin."""
    shutil.copy(tiny.file, home.model(tiny.sha256))
    return home


def prepare(home: Home, sha256: str) -> Path:
    return base_model.prepare_base(home, sha256, NAME)


@pytest.mark.nightly
def test_the_twin_holds_the_very_numbers_of_the_file(tiny: Tiny) -> None:
    """Made by a real conversion, in the process that prepare starts."""
    assert atomic_directory.find_damage(tiny.twin) == ""
    model, tokenizer = base_model.load_base(tiny.twin, "float32")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny.file).tensors}
    embedding = model.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(embedding, tensors["token_embd.weight"])
    down = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(down, tensors["blk.1.ffn_down.weight"])
    assert tokenizer.decode(tokenizer("the ü")["input_ids"]) == "the ü"
    assert not model.training
    model, _ = base_model.load_base(tiny.twin, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_it_is_made_once_and_leftovers_are_swept(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = Converter(tiny, monkeypatch)
    assert not base_model.is_prepared(fetched, tiny.sha256)
    left = fetched.dequantised_base(tiny.sha256).parent / f"{atomic_directory.LEFTOVER_PREFIX}dead"
    left.mkdir()
    folder = prepare(fetched, tiny.sha256)
    assert not left.exists()
    assert base_model.is_prepared(fetched, tiny.sha256)
    assert prepare(fetched, tiny.sha256) == folder == fetched.dequantised_base(tiny.sha256)
    assert converter.times == 1


def test_of_several_at_once_one_makes_it(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file holds between two openings of it, in one process as in two."""
    converter = Converter(tiny, monkeypatch)
    found: list[Path] = []
    run_together([lambda: found.append(prepare(fetched, tiny.sha256))] * 4)
    assert found == [fetched.dequantised_base(tiny.sha256)] * 4
    assert converter.times == 1


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_twin_is_made_again(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    converter = Converter(tiny, monkeypatch)
    folder = prepare(fetched, tiny.sha256)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert prepare(fetched, tiny.sha256) == folder
    assert (folder / file).read_bytes() == whole
    assert converter.times == 2


def test_a_missing_or_damaged_file_names_the_command_that_brings_it(home: Home, fetched: Home, tiny: Tiny) -> None:
    path = fetched.model(tiny.sha256)
    path.write_bytes(path.read_bytes()[:-1])
    with refuses("AW-GET-04", hint=f"remove the file, then run: archwright models fetch {NAME}"):
        prepare(fetched, tiny.sha256)
    path.unlink()
    with refuses("AW-GET-02", hint=f"archwright models fetch {NAME}"):
        prepare(home, tiny.sha256)
    assert not base_model.is_prepared(fetched, tiny.sha256)


@pytest.mark.nightly
@pytest.mark.process
def test_a_file_that_no_conversion_reads_is_refused_in_words(home: Home) -> None:
    data = b"GGUF and then nothing"
    sha256 = hashlib.sha256(data).hexdigest()
    home.model(sha256).write_bytes(data)
    with refuses("AW-TRN-31", NAME):
        prepare(home, sha256)
    assert not base_model.is_prepared(home, sha256)
    assert [path.name for path in home.dequantised_base(sha256).parent.iterdir()] == [".lock"]


def test_a_full_disk_leaves_nothing_behind(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, folder: Path, model: str) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(base_model, "_run_dequantisation", full)
    with refuses("AW-OPS-01"):
        prepare(fetched, tiny.sha256)
    assert [path.name for path in fetched.dequantised_base(tiny.sha256).parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("package", ["torch", "peft", "gguf"])
def test_a_missing_package_names_the_command_that_installs_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with refuses("AW-GET-01", package, "pip install 'archwright[train]'"):
        task_registry.require_packages("text-lora")
    if package == "gguf":
        task_registry.require_packages("tabular-classifier")  # which reads no GGUF

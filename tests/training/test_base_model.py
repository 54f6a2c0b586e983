from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from archwright.errors import ArchwrightError, MissingError, OperateError, TrainError
from archwright.home import Home
from archwright.training import atomic_directory, base_model, task_registry

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


def refused(home: Home, sha256: str) -> ArchwrightError:
    with pytest.raises(ArchwrightError) as caught:
        base_model.prepare_base(home, sha256, NAME)
    return caught.value


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


def test_it_is_loaded_in_the_precision_asked_for(tiny: Tiny) -> None:
    model, _ = base_model.load_base(tiny.twin, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_it_is_made_once(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = Converter(tiny, monkeypatch)
    assert not base_model.is_prepared(fetched, tiny.sha256)
    folder = base_model.prepare_base(fetched, tiny.sha256, NAME)
    assert base_model.is_prepared(fetched, tiny.sha256)
    assert base_model.prepare_base(fetched, tiny.sha256, NAME) == folder == fetched.dequantised_base(tiny.sha256)
    assert converter.times == 1


def test_of_several_at_once_one_makes_it(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file holds between two openings of it, in one process as in two."""
    converter = Converter(tiny, monkeypatch)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(base_model.prepare_base(fetched, tiny.sha256, NAME)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [fetched.dequantised_base(tiny.sha256)] * 4
    assert converter.times == 1


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_twin_is_made_again(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    converter = Converter(tiny, monkeypatch)
    folder = base_model.prepare_base(fetched, tiny.sha256, NAME)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert base_model.prepare_base(fetched, tiny.sha256, NAME) == folder
    assert (folder / file).read_bytes() == whole
    assert converter.times == 2


def test_what_a_killed_conversion_left_is_swept(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    Converter(tiny, monkeypatch)
    left = fetched.dequantised_base(tiny.sha256).parent / f"{atomic_directory.LEFTOVER_PREFIX}dead"
    left.mkdir()
    base_model.prepare_base(fetched, tiny.sha256, NAME)
    assert not left.exists()


def test_a_file_that_is_not_here_is_named_with_the_line_that_brings_it(home: Home, tiny: Tiny) -> None:
    error = refused(home, tiny.sha256)
    assert isinstance(error, MissingError)
    assert (error.code, error.hint) == ("AW-GET-02", f"archwright models fetch {NAME}")


def test_a_damaged_file_is_refused_before_it_is_read(fetched: Home, tiny: Tiny) -> None:
    path = fetched.model(tiny.sha256)
    path.write_bytes(path.read_bytes()[:-1])
    error = refused(fetched, tiny.sha256)
    assert error.code == "AW-GET-04"
    assert f"archwright models fetch {NAME}" in error.hint
    assert not base_model.is_prepared(fetched, tiny.sha256)


@pytest.mark.process
def test_a_file_that_no_conversion_reads_is_refused_in_words(home: Home) -> None:
    data = b"GGUF and then nothing"
    sha256 = hashlib.sha256(data).hexdigest()
    home.model(sha256).write_bytes(data)
    error = refused(home, sha256)
    assert isinstance(error, TrainError)
    assert error.code == "AW-TRN-31"
    assert NAME in error.message
    assert not base_model.is_prepared(home, sha256)
    assert [path.name for path in home.dequantised_base(sha256).parent.iterdir()] == [".lock"]


def test_a_full_disk_leaves_nothing_behind(fetched: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, folder: Path, model: str) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(base_model, "_run_dequantisation", full)
    error = refused(fetched, tiny.sha256)
    assert isinstance(error, OperateError)
    assert error.code == "AW-OPS-01"
    assert [path.name for path in fetched.dequantised_base(tiny.sha256).parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("package", ["torch", "peft", "gguf"])
def test_a_missing_package_answers_with_the_line_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError) as caught:
        task_registry.require_packages("text-lora")
    assert (caught.value.code, caught.value.hint) == ("AW-GET-01", "pip install 'archwright[train]'")
    assert package in caught.value.message
    if package == "gguf":
        task_registry.require_packages("tabular-classifier")  # which reads no GGUF

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from archwright.engines.pickles import format_conversion_command
from archwright.lifecycle import model_formats

from ..tools.checks import refuses


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    save_file({"a": torch.zeros(2)}, folder / "good.safetensors")
    (folder / "good.gguf").write_bytes(b"GGUF\3\0\0\0")
    (folder / "good.onnx").write_bytes(b"\x08\x0a\x12\x00")
    torch.save({"a": torch.arange(4.0)[::2]}, folder / "weights.bin")
    return folder


@pytest.mark.parametrize("form", ["safetensors", "gguf", "onnx"])
def test_the_three_formats_are_taken(files: Path, form: str) -> None:
    assert model_formats.check_format(files / f"good.{form}") == form


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.pkl", "m.pickle", "m.ckpt", "m.joblib", "M.PT"])
def test_a_pickle_is_refused_by_its_name_unopened(tmp_path: Path, name: str) -> None:
    with refuses("AW-MOD-01") as refused:
        model_formats.check_format(tmp_path / name)  # it is not even there
    assert "safetensors.torch.save_file" in refused.value.hint


@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.onnx"])
def test_a_renamed_pickle_is_still_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with refuses("AW-MOD-01"):
        model_formats.check_format(tmp_path / name)
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1))
    with refuses("AW-MOD-01"):
        model_formats.check_format(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.safetensors", b""),
        ("m.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{"),
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("m.gguf", b"GGML"),
        ("m.onnx", b"\x0a"),
        ("m.npz", b"anything"),
        ("model", b"anything"),
    ],
)
def test_what_is_none_of_ours_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with refuses("AW-MOD-02") as refused:
        model_formats.check_format(tmp_path / name)
    (tmp_path / name).unlink()
    with refuses("AW-USE-01"):
        model_formats.check_format(tmp_path / name)
    assert name in refused.value.message


@pytest.mark.process
def test_the_line_that_converts_a_pickle_converts_it(files: Path, tmp_path: Path) -> None:
    """Run as a shell would run it: what it leaves is a safetensors file of the same numbers."""
    pickled = tmp_path / 'a \'quote, "quotes" and $HOME' / "weights.bin"
    pickled.parent.mkdir()
    pickled.write_bytes((files / "weights.bin").read_bytes())
    line = shlex.split(format_conversion_command(pickled))
    assert line[:2] == ["python", "-c"] and len(line) == 3
    subprocess.run(
        ["bash", "-c", f"exec {shlex.quote(sys.executable)} {format_conversion_command(pickled)[7:]}"],
        check=True,
    )
    made = pickled.with_suffix(".safetensors")
    assert model_formats.check_format(made) == "safetensors"
    assert load_file(made)["a"].tolist() == [0.0, 2.0]

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from archwright.engines.gguf import read_gguf
from archwright.lifecycle import adapter_export

from ..tools.checks import refuses
from .conftest import RUN, Pupil, School


@pytest.fixture
def base(school: School) -> Path:
    return school.home.model(school.sha256)


@pytest.fixture
def folder(school: School, tmp_path: Path) -> Path:
    """The trained adapter, to be spoilt."""
    shutil.copytree(school.home.run(RUN) / "result", tmp_path / "result")
    return tmp_path / "result"


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(path)).tensors}


def configured(folder: Path, **changes: object) -> None:
    path = folder / adapter_export.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reweighted(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / adapter_export.WEIGHTS_FILE)


@pytest.mark.nightly
def test_every_pair_is_written_as_llama_cpp_reads_it(base: Path, folder: Path, tmp_path: Path) -> None:
    adapter_export.export_adapter(base, folder, tmp_path / "a.gguf")
    contents, made = read_gguf(tmp_path / "a.gguf"), tensors(tmp_path / "a.gguf")
    wanted = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    assert {name: contents.values[name] for name in wanted} == wanted
    assert contents.values["adapter.lora.alpha"] == 16.0
    weights = load_file(folder / adapter_export.WEIGHTS_FILE)
    assert len(made) == len(weights) == 28
    mine = weights["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].numpy()
    assert np.array_equal(made["blk.1.ffn_down.weight.lora_b"], mine.astype(np.float16))
    mine = weights["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].numpy()
    assert np.array_equal(made["blk.0.attn_q.weight.lora_a"], mine.astype(np.float16))


def test_rows_of_q_and_k_are_interleaved_head_by_head(base: Path, folder: Path, tmp_path: Path) -> None:
    """Heads of eight rows: 0 4 1 5 2 6 3 7 in each; four heads for q, two for k, and nothing else moves."""
    adapter_export.export_adapter(base, folder, tmp_path / "a.gguf")
    weights, made = load_file(folder / adapter_export.WEIGHTS_FILE), tensors(tmp_path / "a.gguf")
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    for module, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2), ("v_proj", "attn_v", 0)):
        rows = weights[f"base_model.model.model.layers.0.self_attn.{module}.lora_B.weight"].numpy()
        moved = [8 * head + row for head in range(heads) for row in order] or list(range(len(rows)))
        assert np.array_equal(made[f"blk.0.{name}.weight.lora_b"], rows[moved].astype(np.float16)), name


def test_the_same_adapter_gives_the_same_bytes(base: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        adapter_export.export_adapter(base, folder, tmp_path / name)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_alpha_gives_llama_cpp_the_scale_that_peft_computed(base: Path, folder: Path, tmp_path: Path) -> None:
    configured(folder, use_rslora=True)
    adapter_export.export_adapter(base, folder, tmp_path / "a.gguf")
    alpha = read_gguf(tmp_path / "a.gguf").values["adapter.lora.alpha"]
    assert isinstance(alpha, float) and alpha / 8 == pytest.approx(16 / 8**0.5)


def refused(base: Path, folder: Path, code: str = "AW-MOD-03") -> str:
    target = folder.parent / "refused.gguf"
    with refuses(code) as error:
        adapter_export.export_adapter(base, folder, target)
    assert error.value.hint
    assert not target.exists()
    return error.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: True}, f"LoRA adapter: {name}") for name in ("use_dora", "fan_in_fan_out")),
        *(({name: {"q_proj": 4}}, f"LoRA adapter: {name}") for name in ("rank_pattern", "alpha_pattern")),
        *(({"bias": "all"}, "LoRA adapter: bias"), ({"peft_type": "IA3"}, "LoRA adapter: peft_type")),
        *(({"modules_to_save": ["lm_head"]}, "LoRA adapter: modules_to_save"), ({"r": 0}, "LoRA adapter: r")),
        *(({"r": 4}, "has rank 8, but the configuration says 4"), ({"r": "eight"}, "cannot be read")),
    ],
)
def test_what_is_no_plain_adapter_is_refused(base: Path, folder: Path, changes: dict[str, object], said: str) -> None:
    configured(folder, **changes)
    assert said in refused(base, folder)


LAYER = "base_model.model.model.layers.0.self_attn"
B_OF_Q, A_OF_V = f"{LAYER}.q_proj.lora_B.weight", f"{LAYER}.v_proj.lora_A.weight"
EMBEDDING = "base_model.model.model.embed_tokens.lora_embedding_A"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda whole: {**whole, B_OF_Q: torch.zeros(16, 8)},
            "blk.0.attn_q.weight is 16 x 32 in the adapter, and the base has 32 x 32",
        ),
        (lambda whole: {k: v for k, v in whole.items() if k != B_OF_Q}, "A or B is missing: blk.0.attn_q.weight"),
        (lambda whole: {k.replace("s.1.", "s.9."): v for k, v in whole.items()}, "the base has no such tensor"),
        (lambda whole: {**whole, EMBEDDING: torch.zeros(8, 4)}, f"it changes {EMBEDDING}"),
        (lambda whole: {}, "it has no weights"),
        *(
            (lambda whole, value=value: {**whole, A_OF_V: torch.full((8, 32), value)}, "the training diverged")
            for value in (float("nan"), float("inf"), 1e5)
        ),
    ],
)
def test_tensors_that_do_not_fit_or_diverged_are_refused(
    base: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], said: str
) -> None:
    reweighted(folder, change(load_file(folder / adapter_export.WEIGHTS_FILE)))
    assert said in refused(base, folder)


def test_a_pickled_adapter_is_answered_with_the_way_to_convert(base: Path, folder: Path) -> None:
    torch.save(load_file(folder / adapter_export.WEIGHTS_FILE), folder / adapter_export.PICKLED_WEIGHTS_FILE)
    (folder / adapter_export.WEIGHTS_FILE).unlink()
    assert "adapter_model.bin is a pickle" in refused(base, folder, "AW-MOD-01")
    (folder / adapter_export.PICKLED_WEIGHTS_FILE).rename(folder / adapter_export.WEIGHTS_FILE)
    assert "adapter_model.safetensors is a pickle" in refused(base, folder, "AW-MOD-01")


def test_damaged_weights_are_refused(base: Path, folder: Path) -> None:
    path = folder / adapter_export.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    assert "its weights are damaged" in refused(base, folder)


def header(path: Path, architecture: str, **heads: int) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in heads.items():
        writer.add_uint32(f"{architecture}.attention.{name}", value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    for layer, (part, rows) in ((0, ("attn_q", 32)), (1, ("attn_q", 32))):
        writer.add_tensor(f"blk.{layer}.{part}.weight", np.zeros((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_unknown_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    base = header(tmp_path / "other.gguf", "qwen2", head_count=4)
    assert "the architecture qwen2" in refused(base, folder, "AW-MOD-04")


def test_a_base_that_does_not_say_its_heads_is_damaged(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / adapter_export.WEIGHTS_FILE)
    reweighted(folder, {name: value for name, value in whole.items() if "q_proj" in name})
    with refuses("AW-ENG-05"):
        adapter_export.export_adapter(header(tmp_path / "headless.gguf", "llama"), folder, tmp_path / "a.gguf")
    adapter_export.export_adapter(header(tmp_path / "base.gguf", "llama", head_count=4), folder, tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").is_file()  # without head_count_kv, k has as many heads as q


def test_a_full_disk_leaves_no_half_of_an_adapter(pupil: Pupil, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_writer: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = set(pupil.home.folder("models").iterdir())
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with refuses("AW-OPS-01"):
        pupil.register()
    assert set(pupil.home.folder("models").iterdir()) == before

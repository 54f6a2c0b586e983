"""A pool whose engine is a server that the platform starts: from the plan to answers, through a crash, to the end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tests.tools.checks import refuses, until

from archwright import api
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Artefact, Launch, Plan
from archwright.contract.record import replace
from archwright.errors import OperateError
from archwright.home import Home
from archwright.needs.template import read_template
from archwright.plan.plan_file import write_plan

from ..tools.hub_server import HubServer
from ..tools.vllm_server import install_vllm, write_checkpoint

pytestmark = pytest.mark.enable_socket

DIGEST = "c" * 64


@pytest.fixture
def plan(home: Home, null_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{install_vllm(tmp_path / 'bin')}:{os.environ['PATH']}")
    empty = dict.fromkeys(("package", "version", "member", "licence", "source"), "")
    named = {"name": "w", "model": "null-model", "sha256": DIGEST, "size_bytes": 1, "quantisation": "fp8"}
    found = msgspec.convert({**empty, **named, "form": "safetensors"}, Artefact)
    visible = {"CUDA_VISIBLE_DEVICES": "0,1"}
    launch = Launch(engine="vllm", settings={"tensor": 2, "format": "fp8"}, environment=visible, startup_s=30.0)
    pool = replace(null_plan.pools[0], launch=launch, artefact=found, accelerator="a", accelerator_count=2)
    write_plan(replace(null_plan, pools=(pool,)), tmp_path / "plan.json")
    return tmp_path / "plan.json"


def serving(home: Home) -> list[int]:
    """The processes of the program below this home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in command and any(str(home.root).encode() in part for part in command):
            found.append(int(entry.parent.name))
    return found


def test_from_the_plan_to_answers_through_a_crash_to_the_end(home: Home, plan: Path) -> None:
    with refuses("AW-GET-02"):
        api.up(str(plan), detach=True, port=0)
    write_checkpoint(home.model_folder(DIGEST), {"gpus": 2, "start_s": 0.3})
    with api.up(str(plan), detach=True, port=0):
        log = home.log("engine-assistant").read_text()
        assert "--tensor-parallel-size=2 " in log and "--quantization fp8" in log and "CUDA_VISIBLE_DEVICES" in log
        spec = json.loads(home.config("engine-assistant").read_text())
        assert spec["engine"] == "vllm" and spec["settings"] == {"tensor": 2, "format": "fp8"}
        assert "null engine" in "".join(api.ask("Who?", max_tokens=12))
        (first,) = serving(home)
        os.kill(first, signal.SIGKILL)
        until(lambda: any(p.restarts and p.ready for p in api.status().processes))
        assert "".join(api.ask("Who?", max_tokens=12))
        assert serving(home) != [first]
        assert "AW-ENG-08  vLLM ended with status -9" in home.log("engine-assistant").read_text()
    assert serving(home) == []


def test_a_start_that_fails_is_the_error_of_up(home: Home, plan: Path) -> None:
    write_checkpoint(home.model_folder(DIGEST), {"gpus": 1})
    with pytest.raises(OperateError, match="fewer GPUs are visible than the plan uses") as caught:
        api.up(str(plan), detach=True, port=0)
    assert caught.value.code == "AW-ENG-08" and "nvidia-smi" in caught.value.hint
    assert serving(home) == [] and api.status().url is None


@pytest.mark.nightly
def test_from_the_hub_to_a_gpu_pool(home: Home, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up --download` on a machine with a GPU: the hub's repository becomes a folder, a plan, and a server."""
    known = load_catalog().models["Qwen3-4B"]
    shape: dict[str, object] = {"model_type": "qwen3", "torch_dtype": "bfloat16", "head_dim": known.head_dim}
    shape |= {"hidden_size": known.hidden, "num_hidden_layers": known.layers, "vocab_size": known.vocabulary}
    shape |= {"num_attention_heads": known.heads, "num_key_value_heads": known.kv_heads}
    folder = tmp_path / "hub" / load_catalog().hub_models["Qwen3-4B"].repository
    write_checkpoint(folder, None, **shape, intermediate_size=known.ffn)
    (folder / "tokenizer.json").write_text("{}")
    save_file({"model.embed_tokens.weight": np.zeros((256, 64), np.float16)}, str(folder / "model.safetensors"))
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    tool.chmod(0o755)
    needs = yaml.load(read_template("desk"), yaml.CSafeLoader)
    needs["workloads"][0]["model"], needs["budget"]["per_month"] = "Qwen3-4B", 600
    (tmp_path / "needs.yaml").write_text(yaml.safe_dump(needs))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with refuses("AW-GET-12"):
            api.up(str(tmp_path / "needs.yaml"), detach=True, port=0)
        with api.up(str(tmp_path / "needs.yaml"), detach=True, port=0, download=True):
            assert "null engine" in "".join(api.ask("Who?", max_tokens=12))
            assert [process.name for process in api.status().processes] == ["engine-assistant", "gateway"]
            assert "--served-model-name=Qwen3-4B" in home.log("engine-assistant").read_text()
        assert server.downloaded()["model.safetensors"] >= 1

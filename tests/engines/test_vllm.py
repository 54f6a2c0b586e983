"""The launcher of vLLM against a program that behaves as its documentation says: flags, environment, failures, ends."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tools.checks import refuses, until

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.plan import EngineOptions
from archwright.engines import vllm
from archwright.engines.engine_config import EngineConfig, adapter_settings
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.journal import Journal
from archwright.operate.supervisor import GRACE_S
from archwright.sizing.inference.option_effects import list_flags

from ..tools.vllm_server import install_vllm, parse_arguments, write_checkpoint
from .conftest import ENDED_WITH_INPUT, Child, make_config

DIGEST, ADAPTER = "a" * 64, "b" * 64
# What vLLM, PyTorch and transformers write, by their sources and their users' reports.
DOCUMENTED = {
    "unrecognized arguments": "vllm: error: unrecognized arguments: --shutdown-timeout=8",
    "custom code": "The repository x contains custom code which must be executed to correctly load the model.",
    "too old": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
    "no GPU is visible": "RuntimeError: Failed to infer device type, please set the environment variable",
    "kernel": "CUDA error: no kernel image is available for execution on the device",
    "fewer GPUs": "Value error, World size (4) is larger than the number of available GPUs (1) in this node.",
    "attention heads": "Total number of attention heads (32) must be divisible by tensor parallel size (3)",
    "another process": "ValueError: Free memory on device cuda:0 (10.41/22.49 GiB) on startup is less than desired GPU "
    "memory utilization (0.85, 19.12 GiB). Decrease GPU memory utilization.",
    "for the context": "ValueError: To serve at least one request with the models's max seq len (40960), (5.6 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (2.1 GiB).",
    "memory of the GPU": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
    "capacity of 22.06 GiB of which 1.2 GiB is free.",
    "longer than the model's": "User-specified max_model_len (65536) is greater than the derived max_model_len (32768)",
    "architecture": "ValueError: Model architectures ['XForCausalLM'] are not supported for now.",
    "lacks files": "RuntimeError: Cannot find any model weights with `models/x.d`",
    "damaged": "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    "socket": "OSError: [Errno 98] Address already in use",
    "installation": "ModuleNotFoundError: No module named 'torch'",
    "bfloat16": "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 "
    "GPU has compute capability 7.5.",
    "for this quantisation": "RuntimeError: ('Quantization scheme is not supported for ', 'the current GPU. Min "
    "capability: 80. ', 'Current capability: 75.')",
    "quantisation of the folder": "ValueError: Unknown quantization method: exl3. Must be one of ['awq', 'fp8'].",
    "exchange data": "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "C compiler": "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
    "killed": "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): "
    "{'EngineCore_DP0': -9}",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    write_checkpoint(found.model_folder(DIGEST))
    return found


def config(home: Home, stand_in: dict[str, object] | None = None, **changes: Any) -> EngineConfig:
    settings = {"program": str(install_vllm(home.folder("bin")) / "vllm"), **changes.pop("settings", {})}
    if stand_in is not None:
        write_checkpoint(home.model_folder(DIGEST), stand_in)
    limits = {"slots": 2, "context_tokens": 1024}
    return make_config("vllm", model_sha256=DIGEST, settings=settings, **{**limits, **changes})


@pytest.fixture
def child(home: Home, processes: None) -> Iterator[Child]:
    """An engine whose answers take 0.6 s."""
    child = Child(home, config(home, {"tpot_s": 0.02}))
    child.start()
    yield child
    if child.process is not None and child.process.poll() is None:
        child.end()


def vllm_of(child: Child) -> int:
    """The process of vLLM, by the journal's engine process."""
    assert child.process is not None
    found = Path(f"/proc/{child.process.pid}/task/{child.process.pid}/children").read_text().split()
    return next(int(pid) for pid in found if b"vllm" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1])


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def arguments(home: Home, **changes: Any) -> Any:
    """The launch line as vLLM parses it."""
    given = config(home, **changes)
    settings = adapter_settings(given, vllm.VllmSettings)
    return parse_arguments(["serve", *vllm.build_arguments(given, settings, home)])


def test_the_launch_line_follows_the_plan(home: Home) -> None:
    given = arguments(home, settings={"tensor": 4, "format": "bf16", "prefix_caching": False})
    assert (given.model_tag, given.served_model_name) == (str(home.model_folder(DIGEST)), ["small"])
    assert (given.tensor_parallel_size, given.pipeline_parallel_size, given.dtype) == (4, 1, "bfloat16")
    assert (given.max_model_len, given.max_num_seqs, given.enable_prefix_caching) == (1024, 2, False)
    assert given.shutdown_timeout < vllm.KILL_AFTER_S < GRACE_S, "the supervisor kills last"
    assert arguments(home, settings={"embeddings": True}).runner == "pooling"
    assert arguments(home, settings={"format": "fp8"}).quantization == "fp8"
    write_checkpoint(home.model_folder(DIGEST), quantization_config={"quant_method": "fp8"})
    assert arguments(home, settings={"format": "fp8"}).quantization is None, "the folder says it itself"


def test_the_launch_line_has_the_options_of_the_plan(home: Home) -> None:
    """The flags that a plan shows for rented machines are those that the launcher writes here."""
    options = EngineOptions(chunk_tokens=8192, kv_format="fp8", draft_tokens=1, draft="mtp")
    settings = {"chunk_tokens": 8192, "kv_format": "fp8", "draft_tokens": 1, "draft": "mtp"}
    given = config(home, settings=settings)
    line = vllm.build_arguments(given, adapter_settings(given, vllm.VllmSettings), home)
    shown = list_flags(Catalog(DATA).engines["vllm"], options).values()
    assert len(shown) == 3 and set(shown) <= set(line)
    drafted = json.loads(parse_arguments(["serve", *line]).speculative_config)
    assert drafted == {"method": "mtp", "num_speculative_tokens": 1}


def test_clients_reach_an_adapter_by_the_alias(home: Home) -> None:
    folder = home.model_folder(ADAPTER)
    with refuses("AW-GET-02"):
        arguments(home, adapter_sha256=ADAPTER)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 24, "peft_type": "LORA"}))
    given = arguments(home, adapter_sha256=ADAPTER)
    assert given.enable_lora and given.lora_modules == [f"small={folder}"]
    assert (given.served_model_name, given.max_lora_rank) == (["small-base"], 32)


def test_what_is_not_there_is_named(home: Home) -> None:
    journal = Journal("engine")
    with refuses("AW-GET-01", hint="pip install 'vllm>=0.18'"):
        vllm.serve(config(home, settings={"program": "no-such-program"}), home, journal)
    with refuses("AW-GET-02", hint="archwright models fetch small"):
        vllm.serve(make_config("vllm", model_sha256=ADAPTER, settings={"program": "sh"}), home, journal)
    for wrong in ({"tensor": 0}, {"gpu_memory_utilization": 1.5}, {"trust_remote_code": True}, {"api_key": "x"}):
        with refuses("AW-ENG-06"):
            vllm.serve(config(home, settings=wrong), home, journal)


def test_every_failure_of_the_table_is_found_by_its_documented_text() -> None:
    with Path(vllm.__file__).with_name("vllm_failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(DOCUMENTED) and all(row["source"] and row["as_of"] for row in rows)
    for row, (reason, line) in zip(rows, DOCUMENTED.items(), strict=True):
        lines = ["INFO loading", f"(EngineCore_DP0 pid=7) {line}", "RuntimeError: Engine core initialization failed."]
        error = vllm.explain_failure(1, lines, "small")
        assert reason in error.message and line[-60:] in error.message and "pid=7" not in error.message
        assert (error.code, error.hint) == ("AW-ENG-08", row["hint"])
    assert "lacks files" in explain("OSError: /m does not appear to have a file named config.json. Checkout ...")
    fp8 = "The quantization method fp8 is not supported for the current GPU. Minimum capability: 75."
    assert "for this quantisation" in explain(fp8)


def explain(*lines: str, status: int = 1) -> str:
    return vllm.explain_failure(status, lines, "small").message


def test_the_last_line_that_tells_a_failure_explains_it() -> None:
    memory = "(EngineCore_DP0 pid=7) (Worker_TP0 pid=8) ERROR 11-28 [core.py:9] torch.OutOfMemoryError: CUDA out of"
    end = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    assert "memory of the GPU" in explain("ImportError: no flash_attn here, going on without it", memory, end)
    for harmless in (
        *("INFO 11-28 ImportError: optional package", "(APIServer pid=2) WARNING 11-28 FileNotFoundError: x"),
        *("/a/b.py:3: UserWarning: ImportError: x", "[rank0]:[W1128 12:00:00 x.cpp:1] Warning: NCCL error"),
        "RuntimeError: NCCL error: remote process exited or there was a network error",
        "ImportError: sys.meta_path is None, Python is likely shutting down",
        "FileNotFoundError: [Errno 2] No such file or directory: '/psm_1a2b3c4d'",
    ):
        assert "memory of the GPU" in explain(memory, harmless, end)
    assert explain("INFO fine", "ZeroDivisionError: by zero", end).endswith("status 1: ZeroDivisionError: by zero")
    assert explain("ZeroDivisionError: by zero", "bye").endswith("status 1: ZeroDivisionError: by zero")
    assert explain("INFO only").endswith("status 1: INFO only") and "it wrote nothing" in explain()
    assert "ran out of memory" in explain(memory, "INFO fine", status=-9), "no line of it tells this end"


@pytest.mark.parametrize(
    ("stand_in", "changes", "reason"),
    [
        ({"gpus": 2}, {"settings": {"tensor": 3}}, "fewer GPUs"),
        ({"memory_gib": 24.0, "weights_gib": 21.0}, {"context_tokens": 40000}, "for the context"),
    ],
)
def test_a_start_that_fails_ends_with_the_cause_and_leaves_nothing(
    home: Home, processes: None, terminate_handler: None, stand_in: dict[str, object], changes: Any, reason: str
) -> None:
    given = config(home, stand_in, **changes)
    with refuses("AW-ENG-08", reason):
        vllm.serve(given, home, Journal("engine"))
    assert not home.socket(given.socket).exists()


def test_it_gets_no_secret_and_no_network_for_models(
    home: Home, processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    child = Child(home, config(home))
    child.start()
    assert child.end() == 0
    (seen,) = (line for line in child.log.read_text().splitlines() if line.startswith("environment"))
    assert "HF_TOKEN" not in seen and "VLLM_API_KEY" not in seen
    assert all(name in seen for name in (*vllm.ENVIRONMENT, "CUDA_VISIBLE_DEVICES"))


def test_told_to_end_it_finishes_running_answers_and_takes_no_more(child: Child) -> None:
    async def act() -> tuple[list[Any], int]:
        client = EngineClient(child.address)
        body = {"messages": [{"role": "user", "content": "Go on."}], "max_tokens": 30, "stream": True}
        events = list[Any]()
        async for event in client.stream("/chat/completions", body):
            if not events and child.process is not None:
                child.process.send_signal(signal.SIGTERM)
            events.append(event)
        await client.close()
        return events, child.wait()

    events, status = asyncio.run(act())
    assert events[-1]["choices"][0]["finish_reason"] == "length" and len(events) == 31
    assert status == 0 and not Path(child.address[5:]).exists()


def test_killed_it_says_so_and_none_of_its_workers_lives_on(child: Child) -> None:
    server = vllm_of(child)
    os.kill(server, signal.SIGKILL)
    assert child.wait() == 7
    assert "AW-ENG-08  vLLM ended with status -9" in child.log.read_text()
    assert not Path(child.address[5:]).exists()
    child.start()
    server = vllm_of(child)
    assert child.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not is_alive(server))
    assert not Path(child.address[5:]).exists(), "told to end, not killed: only in order it removes its socket"
    child.start()
    server = vllm_of(child)
    assert child.orphan() in ENDED_WITH_INPUT
    until(lambda: not is_alive(server))


def test_options_of_another_version_are_an_error(tmp_path: Path, processes: None) -> None:
    program = install_vllm(tmp_path) / "vllm"
    done = subprocess.run([program, "serve", "folder", "--no-such-option"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "does not know an option" in vllm.explain_failure(2, done.stderr.splitlines(), "small").message

"""A program that behaves as vLLM's server does by its documentation (0.18), with the null engine's replies.

`install_vllm` places it on a PATH as `vllm`. It takes the options of `vllm serve` that it knows, and refuses others as
argparse does. `stand_in.json` in the model's folder describes the machine: `gpus`, `memory_gib`, `free_gib`, `start_s`,
`ttft_s`, `tpot_s`, and `fails` (a line of the log that ends the start). It never ran on hardware.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from archwright.engines.engine_config import EngineConfig
from archwright.engines.engine_server import EngineReply, Handler, Routes, ServerRequest, make_json_reply, serve_until
from archwright.engines.null import NullEngine, NullSettings
from archwright.engines.null_replies import ErrorReply
from archwright.journal import Journal

ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")
GIB = 2**30


def install_vllm(folder: Path) -> Path:
    """Write the program `vllm` into a new folder for a PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n')
    program.chmod(0o755)
    return folder


def write_checkpoint(folder: Path, stand_in: dict[str, object] | None = None, **config: object) -> Path:
    """Write a model folder without real weights: the program reads only its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 32, "num_key_value_heads": 8}
    shape |= {"num_hidden_layers": 36, "head_dim": 128, "max_position_embeddings": 40960, **config}
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "stand_in.json").write_text(json.dumps(stand_in or {}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", allow_abbrev=False)
    serve.add_argument("model_tag")
    for name in ("--tensor-parallel-size", "--pipeline-parallel-size", "--max-model-len", "--max-num-seqs"):
        serve.add_argument(name, type=int, default=1)
    serve.add_argument("--served-model-name", nargs="+")
    serve.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    serve.add_argument("--dtype", choices=("auto", "half", "float16", "bfloat16", "float", "float32"), default="auto")
    serve.add_argument("--quantization", choices=("fp8", "awq", "gptq"))
    serve.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    serve.add_argument("--disable-uvicorn-access-log", action="store_true")
    serve.add_argument("--max-num-batched-tokens", type=int)
    serve.add_argument("--kv-cache-dtype", choices=("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"), default="auto")
    serve.add_argument("--speculative-config")
    serve.add_argument("--enable-lora", action="store_true")
    serve.add_argument("--lora-modules", nargs="+", default=[])
    serve.add_argument("--max-loras", type=int, default=1)
    serve.add_argument("--max-lora-rank", type=int, choices=(1, 8, 16, 32, 64, 128, 256, 320, 512), default=16)
    serve.add_argument("--runner", choices=("auto", "generate", "pooling", "draft"), default="auto")
    serve.add_argument("--enable-auto-tool-choice", action="store_true")
    serve.add_argument("--tool-call-parser")
    serve.add_argument("--reasoning-parser")
    serve.add_argument("--shutdown-timeout", type=int, default=0)
    serve.add_argument("--uds")
    return parser.parse_args(arguments)


def fail(line: str) -> NoReturn:
    """Log as the engine core and the server do, and end."""
    print(f"(EngineCore_DP0 pid={os.getpid()}) {line}", file=sys.stderr)
    print("RuntimeError: Engine core initialization failed. See root cause above.", file=sys.stderr, flush=True)
    sys.exit(1)


def check_start(given: argparse.Namespace, config: dict[str, Any], machine: dict[str, Any]) -> None:
    """End with the text of vLLM if the model, the options and the machine do not fit."""
    heads, tensor = config["num_attention_heads"], given.tensor_parallel_size
    gpus = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else machine.get("gpus", 1)
    if gpus == 0:
        fail("RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL`")
    if (size := tensor * given.pipeline_parallel_size) > gpus:
        fail(f"ValueError: World size ({size}) is larger than the number of available GPUs ({gpus}) in this node.")
    if not set(config["architectures"]) & set(ARCHITECTURES):
        fail(f"ValueError: Model architectures {config['architectures']} are not supported for now.")
    if heads % tensor:
        fail(f"Total number of attention heads ({heads}) must be divisible by tensor parallel size ({tensor}).")
    if given.max_model_len > config["max_position_embeddings"]:
        fail(f"User-specified max_model_len ({given.max_model_len}) is greater than the derived max_model_len")
    if not list(Path(given.model_tag).glob("*.safetensors")):
        fail(f"RuntimeError: Cannot find any model weights with `{given.model_tag}`")
    if "fails" in machine:
        fail(machine["fails"])
    total = machine.get("memory_gib", 80.0)
    free, wanted = machine.get("free_gib", total), total * given.gpu_memory_utilization
    if free < wanted:
        fail(f"ValueError: Free memory on device cuda:0 ({free}/{total} GiB) on startup is less than desired GPU "
             f"memory utilization ({given.gpu_memory_utilization}, {wanted:.2f} GiB).")  # fmt: skip
    token = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] / tensor
    cache, needed = wanted - machine.get("weights_gib", 1.0), token * given.max_model_len / GIB
    if needed > cache:
        fail(f"ValueError: To serve at least one request with the models's max seq len ({given.max_model_len}), "
             f"({needed:.2f} GiB KV cache is needed, which is larger than the available KV cache memory "
             f"({cache:.2f} GiB).")  # fmt: skip


def refusal(status: int, kind: str, message: str) -> ErrorReply:
    error = ErrorReply(status, kind, message)
    error.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return error


class VllmServer:
    """The routes of vLLM over the null engine."""

    def __init__(self, given: argparse.Namespace, machine: dict[str, Any]) -> None:
        self._given, self._context = given, given.max_model_len
        adapters = [module.partition("=")[0] for module in given.lora_modules]
        self.names = [*adapters, *given.served_model_name]
        times = {name: machine[name] for name in ("ttft_s", "tpot_s") if name in machine}
        settings = NullSettings(**times, embeddings=given.runner == "pooling")
        limits = {"context_tokens": self._context, "default_max_tokens": self._context}
        fields = {"slots": given.max_num_seqs, "adapter_sha256": adapters[0] if adapters else None, **limits}
        config = EngineConfig(engine="null", socket="", alias=self.names[0], **fields)
        self._engine, self._draining = NullEngine(config, settings), False
        self._counts = self._engine._slots.counts

    def routes(self) -> Routes:
        found = self._engine.routes().items()
        own = {key: partial(self._answer, handler) for key, handler in found if key[0] == "POST"}
        given: Routes = {("GET", "/v1/models"): self._models, ("GET", "/metrics"): self._metrics}
        return {**own, **given, ("GET", "/health"): self._health}

    async def _answer(self, handler: Handler, request: ServerRequest) -> EngineReply | None:
        if self._draining:
            raise refusal(503, "ServiceUnavailableError", "the server is shutting down")
        name = json.loads(request.body).get("model")
        if name not in (None, *self.names):
            raise refusal(404, "NotFoundError", f"The model `{name}` does not exist.")
        try:
            return await handler(request)
        except ErrorReply as error:
            detail = error.body["error"]
            message = str(detail["message"])
            if read := detail.get("n_prompt_tokens"):
                message = (
                    f"This model's maximum context length is {self._context} tokens. However, you requested 1 output "
                    f"tokens and your prompt contains at least {read} input tokens."
                )
            raise refusal(error.status, "BadRequestError", message) from error

    async def _health(self, _: ServerRequest) -> EngineReply:
        return EngineReply(b"")

    async def _models(self, _: ServerRequest) -> EngineReply:
        base = {"object": "model", "owned_by": "vllm", "max_model_len": self._context}
        return make_json_reply({"object": "list", "data": [{"id": name, **base} for name in self.names]})

    async def _metrics(self, _: ServerRequest) -> EngineReply:
        series = {
            "num_requests_running": "requests_processing",
            "num_requests_waiting": "requests_deferred",
            "prompt_tokens_total": "prompt_tokens_total",
            "generation_tokens_total": "tokens_predicted_total",
        }
        label = f'{{engine="0",model_name="{self._given.served_model_name[0]}"}}'
        lines = (f"vllm:{name}{label} {float(self._counts[own])}\n" for name, own in series.items())
        return EngineReply("".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def wait(self) -> None:
        """Return after SIGTERM, when running requests have ended or the time is over."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        self._draining = True
        # As a logger, it goes on if nobody reads its output any more.
        with suppress(BrokenPipeError):
            print("INFO: Shutting down", file=sys.stderr, flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._given.shutdown_timeout):
                while self._counts["requests_processing"] or self._counts["requests_deferred"]:
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the last bytes leave


def main(arguments: Sequence[str]) -> None:
    given = parse_arguments(arguments)
    folder = Path(given.model_tag)
    described = folder / "stand_in.json"
    config = json.loads((folder / "config.json").read_text())
    machine = json.loads(described.read_text()) if described.exists() else {}
    print(f"INFO vLLM API server, non-default args: {vars(given)}", flush=True)
    print("environment", sorted(os.environ), flush=True)
    check_start(given, config, machine)
    time.sleep(machine.get("start_s", 0.0))
    server = VllmServer(given, machine)
    serve_until(server.wait, server.routes(), Path(given.uds), Journal("vllm"), server.names[0])


if __name__ == "__main__":
    main(sys.argv[1:])

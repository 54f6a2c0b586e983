"""The engine of a stored model: its settings, its context and its predicted memory on this machine."""

import hashlib

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.stored_models import build_artefact, build_model_spec
from archwright.catalog.probe import host_resources
from archwright.contract.needs import TokenLength
from archwright.contract.plan import ENGINE_ARGUMENTS, LoadSpec, MachineFacts, Plan, ProcessSpec
from archwright.contract.record import replace
from archwright.contract.stored_model import StoredModel
from archwright.engines.engine_config import EngineConfig
from archwright.errors import ErrorLocation, OperateError, argument_error
from archwright.simulate.local_engine import (
    SPIN_ENVIRONMENT,
    EngineSettings,
    build_engine_settings,
    build_local_spec,
)
from archwright.simulate.serving_simulation import ServingSpec, estimate_engine_memory
from archwright.sizing.hardware.roofline import count_engine_threads

# The share of the memory for the plan and all loaded models; the rest is for the system and file caches.
MEMORY_SHARE = 0.8
DEFAULT_SLOTS, MOST_SLOTS = 2, 64
# TEXT_CONTEXT: of a model that embeds or ranks texts.
DEFAULT_CONTEXT, TEXT_CONTEXT, LEAST_CONTEXT = 8192, 512, 256
# Peak of an ONNX engine: the process, a factor of the file while it is read (measured: 1.5 of 437 MB, 1.7 of 90 MB),
# and for each request its activations and three arrays of attention scores. 8-bit weights may need more.
ONNX_PROCESS_BYTES, ONNX_FILE_FACTOR, SCORE_ARRAYS, FLOAT_BYTES = 120e6, 1.8, 3, 4
# Time to load a model: its file at the rate of a slow disk, at least a minute.
START_S, DISK_BYTES_PER_S = 60.0, 50e6


def find_memory_limit(stated: int, plan: Plan | None = None) -> int:
    """Return the bytes of memory for loaded models: as `stated`, else the share that the plan's engines leave."""
    if stated:
        return stated
    known = plan.machine.memory_bytes if plan is not None and plan.machine is not None else None
    used = [one.estimate.value for one in plan.predictions if one.metric == "peak_memory_bytes"] if plan else []
    return max(1, int(MEMORY_SHARE * (known or host_resources.usable_memory()) - sum(used)))


def build_launch(
    stored: StoredModel, slots: int, context: int | None, machine: MachineFacts, catalog: Catalog, limit_bytes: int
) -> ProcessSpec:
    """Return the process of an engine with `slots` of `context` tokens; None: as many as usual, fewer in small memory.

    Raises UsageError AW-USE-62 (slots or context), OperateError AW-OPS-55 (memory), -56 (no engine for the form).
    """
    most = stored.architecture.context_tokens
    if not 1 <= slots <= MOST_SLOTS:
        raise argument_error("AW-USE-62", f"slots must be 1 to {MOST_SLOTS}", "slots", f"--slots {DEFAULT_SLOTS}")
    if context is not None and not min(LEAST_CONTEXT, most) <= context <= most:
        message = f"the context of {stored.name} must be {min(LEAST_CONTEXT, most)} to {most} tokens"
        raise argument_error("AW-USE-62", message, "context", f"--context {min(DEFAULT_CONTEXT, most)}")
    tokens = context or min(most, DEFAULT_CONTEXT if stored.task == "generate" else TEXT_CONTEXT)
    engine, settings = _choose_engine(stored, machine, catalog)
    while True:
        if stored.form == "onnx":
            memory = _predict_onnx_memory(stored, slots, tokens)
        else:
            spec = _build_spec(stored, slots, tokens, machine, catalog)
            memory = estimate_engine_memory(spec).value
        if memory <= limit_bytes:
            break
        if context is not None or tokens // 2 < LEAST_CONTEXT:
            message = (
                f"{stored.name} needs {memory / 1e9:.2f} GB of memory with {slots} slots of {tokens} tokens, "
                f"and loaded models may use {limit_bytes / 1e9:.2f} GB"
            )
            hint = "use a smaller quantisation, fewer --slots, or raise the setting model_memory_bytes"
            raise OperateError("AW-OPS-55", message, where=ErrorLocation(field=stored.name), hint=hint)
        tokens //= 2
    if stored.form == "gguf":
        settings |= build_engine_settings(spec, build_artefact(stored))
    config = EngineConfig(
        engine=engine,
        socket="",
        alias=stored.name,
        slots=slots,
        context_tokens=tokens,
        default_max_tokens=tokens,
        model_sha256=stored.sha256,
        settings=settings,
    )
    return build_process(config, memory, START_S + stored.size_bytes / DISK_BYTES_PER_S)


def build_process(config: EngineConfig, memory_bytes: float, deadline_s: float) -> ProcessSpec:
    """Return the on-demand process of an engine; equal configurations have equal names."""
    digest = hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()
    name = f"model-{(config.model_sha256 or config.engine)[:12]}-{digest[:8]}"
    return ProcessSpec(
        name=name,
        argv=ENGINE_ARGUMENTS,
        config=msgspec.to_builtins(replace(config, socket=name)),
        environment=SPIN_ENVIRONMENT,
        ready_socket=name,
        startup_deadline_s=round(deadline_s, 1),
        memory_bytes=int(memory_bytes),
        on_demand=True,
    )


def _choose_engine(stored: StoredModel, machine: MachineFacts, catalog: Catalog) -> tuple[str, EngineSettings]:
    """Return the engine for the form of the model's files, and its settings."""
    if stored.form == "onnx":
        return "onnx-text", {"task": stored.task, "threads": count_engine_threads(machine)}
    flag = {"embed": "embeddings", "rerank": "rerank"}.get(stored.task)
    flags: EngineSettings = {} if flag is None else {flag: True}
    if stored.form == "gguf":
        return catalog.embedded_engine.id, flags
    server = catalog.default_engine
    if not machine.gpus or server.id not in machine.programs or stored.task == "rerank":
        message = f"{stored.name} is a safetensors folder, which needs a GPU and {server.product} on this machine"
        hint = f"use a GGUF file of the model, or install the engine: {server.install}"
        raise OperateError("AW-OPS-56", message, where=ErrorLocation(field=stored.name), hint=hint)
    return server.id, flags


def _build_spec(stored: StoredModel, slots: int, context: int, machine: MachineFacts, catalog: Catalog) -> ServingSpec:
    """Return the engine with this model and full slots."""
    model = build_model_spec(replace(stored, task="generate"))
    assert model is not None, "a generating model without an architecture"
    length = TokenLength(mean=context / 2, p95=float(context))
    load = LoadSpec(
        workload=stored.name,
        model=stored.model,
        requests_per_second=0.0,
        input_tokens=length,
        output_tokens=length,
        concurrency=slots,
    )
    return build_local_spec(model, build_artefact(stored), machine, catalog, load, context)


def _predict_onnx_memory(stored: StoredModel, slots: int, context: int) -> float:
    """Return the predicted peak in bytes: in each slot one text of the whole context, which is a batch of its own."""
    architecture = stored.architecture
    activations = context * (architecture.hidden * 6 + (architecture.ffn or 4 * architecture.hidden))
    scores = SCORE_ARRAYS * architecture.heads * context * context
    return ONNX_PROCESS_BYTES + ONNX_FILE_FACTOR * stored.size_bytes + slots * FLOAT_BYTES * (activations + scores)

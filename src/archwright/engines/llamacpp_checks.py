"""Reasons why llama.cpp cannot load a model, before it tries and from its log."""

import os
import re
import stat
from pathlib import Path
from typing import Any

from archwright.engines.engine_config import EngineConfig
from archwright.engines.gguf import GgufContents
from archwright.errors import EngineError, ErrorLocation

ARCHITECTURE_KEY = "general.architecture"
STANDARD_ERROR = 2
LOG_LIMIT_BYTES = 1 << 18
CACHE_BYTES = 2  # f16
# An error line of the log: time, "E", the function, the reason. The first one has the cause, later ones repeat it.
ERROR_LINE = re.compile(r"^[\d.]+ E (?:[^\s:]+ +)?\S+: (.+)$", re.MULTILINE)
MEMORY_HINT = "stop other programs, or use fewer slots, a shorter context or a smaller file"
ADAPTER_HINT = "train or convert the adapter for this base model"
# Words of an error line that tell its cause.
MEMORY_WORDS = ("insufficient memory", "allocate")
FILE_WORDS = ("architecture", "error loading model", "template", "vocab")


def check_adapter(config: EngineConfig, model: GgufContents, adapter: GgufContents) -> None:
    """Raises EngineError AW-ENG-16 if the file is no adapter, or one for another architecture."""
    kind, of = adapter.values.get("general.type"), adapter.values.get(ARCHITECTURE_KEY)
    base = model.values.get(ARCHITECTURE_KEY)
    if kind == "adapter" and of == base:
        return
    reason = f"it is for the architecture {of}, not {base}" if kind == "adapter" else "the file is not an adapter"
    message = f"the adapter does not fit the model: {reason}"
    raise EngineError("AW-ENG-16", message, where=_model_field(config), hint=ADAPTER_HINT)


def require_memory(config: EngineConfig, path: Path, model: GgufContents) -> None:
    """Raises EngineError AW-ENG-14 if the file and its cache exceed the available memory."""
    file, cache = path.stat().st_size, count_cache_bytes(model, config.slots * config.context_tokens)
    available = read_available_memory()
    if file + cache <= available:
        return
    message = (
        f"too little memory: {_gb(file + cache)} are needed ({_gb(file)} file, {_gb(cache)} cache), "
        f"{_gb(available)} are available"
    )
    raise EngineError("AW-ENG-14", message, where=_model_field(config), hint=MEMORY_HINT)


def count_cache_bytes(model: GgufContents, tokens: int) -> int:
    """Bytes of keys and values of `tokens` tokens; 0 if the header does not state them for all layers alike."""
    name = model.values.get(ARCHITECTURE_KEY)

    def read(key: str) -> int:
        value = model.values.get(f"{name}.{key}", 0)
        return value if type(value) is int else 0

    recurrent = any(key.startswith(f"{name}.ssm.") for key in model.values)
    if recurrent or read("attention.sliding_window") or read("attention.kv_lora_rank"):
        return 0
    heads = read("attention.head_count") or 1
    width = read("embedding_length") // heads
    widths = (read("attention.key_length") or width) + (read("attention.value_length") or width)
    return tokens * read("block_count") * read("attention.head_count_kv") * widths * CACHE_BYTES


def read_available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process can use: what the kernel estimates, at most the limit of the container."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    available = int(found[1]) * 1024 if found else 1 << 62
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return available
    return min(available, int(limit)) if limit.isdecimal() else available


def require_gpu(library: Any) -> None:
    """Raises EngineError AW-ENG-17 if this build of the library sees no GPU."""
    kinds = library.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    if any(device["type"] in gpus for device in library.get_device_info()):
        return
    hint = "install a build of xllamacpp for the GPU (its README lists CUDA, ROCm and Vulkan), or set gpu_layers to 0"
    message = "gpu_layers is set, but this build of xllamacpp finds no GPU"
    raise EngineError("AW-ENG-17", message, where=ErrorLocation(field="launch.settings"), hint=hint)


def log_size() -> int:
    """Bytes of the log so far, if standard error is a file; else -1."""
    state = os.fstat(STANDARD_ERROR)
    return state.st_size if stat.S_ISREG(state.st_mode) else -1


def read_log(begin: int) -> str:
    """The log from byte `begin` on; empty if this process cannot read it."""
    if begin < 0:
        return ""
    try:
        with open(f"/proc/self/fd/{STANDARD_ERROR}", "rb") as log:
            log.seek(begin)
            return log.read(LOG_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def explain_failure(config: EngineConfig, log: str, reason: str) -> EngineError:
    """The error for a failed start, with the first reason that the engine wrote to its log."""
    found, where = ERROR_LINE.search(log), _model_field(config)
    line, reason = (found[0].lower(), found[1].strip()) if found is not None else ("", reason)
    if any(word in line for word in MEMORY_WORDS):
        return EngineError("AW-ENG-14", f"too little memory: {reason}", where=where, hint=MEMORY_HINT)
    if "lora" in line:
        message = f"the adapter does not fit the model: {reason}"
        return EngineError("AW-ENG-16", message, where=where, hint=ADAPTER_HINT)
    if any(word in line for word in FILE_WORDS):
        hint = "choose another file of the model: archwright models list"
        return EngineError("AW-ENG-15", f"llama.cpp cannot load this file: {reason}", where=where, hint=hint)
    hint = "read its lines above in this log; the usual reason is too little memory"
    return EngineError("AW-ENG-08", f"llama.cpp did not start: {reason}", where=where, hint=hint)


def _model_field(config: EngineConfig) -> ErrorLocation:
    return ErrorLocation(field=f"model {config.alias}")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"

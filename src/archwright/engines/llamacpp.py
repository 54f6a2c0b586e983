"""llama.cpp inside this process, through the package xllamacpp: its own HTTP server on a Unix socket."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_file, adapter_settings
from archwright.engines.gguf import check_gguf
from archwright.engines.model_files import missing_model_error
from archwright.engines.unix_socket import claim_socket, leave_on_terminate
from archwright.errors import EngineError, ErrorLocation, MissingError, missing_extra
from archwright.home import Home
from archwright.journal import Journal


class LlamaSettings(Record):
    """`batch_tokens` of a prompt are read between two looks at other streams and at cancellations. At the engine's
    default of 2,048 a long prompt stalls every stream for seconds. Measured on one core: 64 is as fast as 128, and
    frees the engine of a cancelled prompt within 0.5 s (busy machine: 1.1 s), 128 within 1.3 s (2.4 s)."""

    threads: int = 1
    batch_tokens: int = 64
    embeddings: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1 or self.batch_tokens < 1:
            raise ValueError("threads and batch_tokens must be at least 1")


def serve(config: EngineConfig, home: Home, journal: Journal, wait: Callable[[], object] = signal.pause) -> None:
    """Load the model and serve until killed; returns only if `wait` does.

    Until the model is loaded SIGTERM kills at once (the loader holds the interpreter, so a handler of ours could
    not run); from then on it leaves with status 0 and takes the socket along."""
    settings = adapter_settings(config, LlamaSettings)
    model, adapter = find_model(config, home), adapter_file(config, home)
    if adapter is not None:
        check_gguf(adapter)
    library = load_library()
    path = claim_socket(home, config.socket)
    journal.info("loading", model=config.alias, adapter=config.adapter_sha256, slots=config.slots)
    try:
        given = _build_parameters(library, config, settings, model, path)
        if adapter is not None:
            given.lora_adapters = [library.CommonAdapterLoraInfo(str(adapter), 1.0)]
        server = library.Server(given)
    except RuntimeError as error:
        hint = "its own lines above in this log say why; too little memory is the usual reason"
        where = ErrorLocation(field=f"model {config.alias}")
        raise EngineError("AW-ENG-08", f"llama.cpp did not start: {error}", where=where, hint=hint) from error
    leave_on_terminate(path)
    journal.info("ready", model=config.alias, socket=str(path))
    wait()
    del server


def find_model(config: EngineConfig, home: Home) -> Path:
    """The checked model file. Raises MissingError AW-GET-02, EngineError AW-ENG-05 (damaged) or -06 (not named)."""
    if config.model_sha256 is None:
        hint = "run `archwright up` again: it writes the configuration anew"
        message = "the engine llamacpp needs a model file"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(field="model_sha256"), hint=hint)
    path = home.model(config.model_sha256)
    if not path.is_file():
        raise missing_model_error(config.alias, path)
    check_gguf(path)
    return path


def load_library(load: Callable[[], Any] | None = None) -> Any:
    """The package, or the error that says which line installs what is missing."""
    try:
        return (load or _import_library)()
    except ImportError as error:
        if "libgomp" not in str(error):
            raise missing_extra("local", "xllamacpp", "the embedded engine") from error
        message = "the engine needs the system library libgomp, which is not installed"
        where = ErrorLocation(field="xllamacpp")
        raise MissingError("AW-GET-05", message, where=where, hint="apt-get install libgomp1") from error


def _import_library() -> Any:
    import xllamacpp  # noqa: PLC0415  the heavy extra of this adapter

    return xllamacpp


def _build_parameters(library: Any, config: EngineConfig, settings: LlamaSettings, model: Path, path: Path) -> Any:
    given = library.CommonParams()
    given.model.path = str(model)
    # Else the file's path is shown to clients as the model's name.
    given.model_alias = {config.alias}
    # A host that ends in .sock is a Unix socket to the engine.
    given.hostnames = [str(path)]
    given.n_parallel = config.slots
    # The engine divides its context evenly among the slots, and must not shrink it to "fit".
    given.n_ctx = config.slots * config.context_tokens
    given.fit_params = False
    given.n_batch = given.n_ubatch = settings.batch_tokens
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = settings.threads
    given.n_predict = config.default_max_tokens
    given.use_jinja = True
    # Prompts of finished requests are not kept in memory beyond the slots: the plan's memory is the whole memory.
    given.cache_ram_mib = 0
    given.endpoint_metrics = True
    given.endpoint_props = given.endpoint_slots = given.ui = False
    # The reason of a failed start is only ever written to the log, and only from this level on.
    given.verbosity = 1
    if settings.embeddings:
        given.embedding = True
        given.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # Else texts of unlike lengths that are read together come in steps, and a mean is of its last step alone.
        given.kv_unified = True
        given.kv_unified_per_slot = config.context_tokens
        # A text is embedded in one step, and refused where it is longer than that. It costs memory: of SmolLM2-135M the
        # process takes 0.23 GB with a context of 256 tokens, 0.67 GB with 2,048.
        given.n_batch = given.n_ubatch = max(settings.batch_tokens, config.context_tokens)
    return given

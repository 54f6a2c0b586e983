"""llama.cpp in this process through the package xllamacpp: its HTTP server on a Unix socket, behind our proxy."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_file, adapter_settings, require_digest
from archwright.engines.gguf import GgufContents, read_gguf
from archwright.engines.llamacpp_checks import (
    check_adapter,
    explain_failure,
    log_size,
    read_log,
    require_gpu,
    require_memory,
)
from archwright.engines.llamacpp_proxy import LlamaProxy
from archwright.engines.model_files import missing_model_error
from archwright.engines.special_tokens import SpecialTokens
from archwright.engines.unix_socket import leave_on_terminate
from archwright.errors import ErrorLocation, MissingError, missing_extra
from archwright.home import Home
from archwright.journal import Journal

# The library's own socket, beside that of the proxy.
INNER_NAME = "llama.sock"
TEMPLATE_KEY = "tokenizer.chat_template"
# Tensor types that the library rearranges for the processor: Q4_0, Q2_K, Q4_K, IQ4_NL, MXFP4; on others than x86 also
# Q8_0, Q5_K, Q6_K (llama.cpp, ggml/src/ggml-cpu/repack.cpp).
REARRANGED = frozenset({2, 10, 12, 20, 39} if platform.machine() == "x86_64" else {2, 8, 10, 12, 13, 14, 20, 39})


class LlamaSettings(Record):
    """`batch_tokens` of a prompt are read before other streams continue and cancellations are checked.

    At the engine's default of 2,048 a long prompt stalls every stream for seconds. `embeddings`, `rerank`: the tasks
    besides generation. `gpu_layers` of the model run on the GPU, -1: as many as fit its memory. `template_tools` is for
    the gateway, which leaves tool calls to a chat template that has them.
    """

    threads: int = 1
    batch_tokens: int = 64
    embeddings: bool = False
    rerank: bool = False
    gpu_layers: int = 0
    template_tools: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1 or self.batch_tokens < 1 or self.gpu_layers < -1:
            raise ValueError("threads and batch_tokens must be at least 1, and gpu_layers at least -1")
        if self.embeddings and self.rerank:
            raise ValueError("one process either embeds or reranks, because each needs its own pooling")


def find_inner_socket(config: EngineConfig, home: Home) -> Path:
    """Return the socket of llama.cpp's server, to which the proxy connects."""
    return home.engine_socket(config.socket).with_name(INNER_NAME)


def run_proxy(config: EngineConfig, home: Home) -> None:
    """Serve the engine's socket in front of llama.cpp until the process ends. Raises as `serve` does."""
    settings = adapter_settings(config, LlamaSettings)
    header = read_gguf(find_model(config, home))
    special = SpecialTokens(header.special_tokens)
    keeps_prompts = not (settings.embeddings or settings.rerank)
    inner_path = find_inner_socket(config, home)
    LlamaProxy(inner_path, config.slots, special, keeps_prompts=keeps_prompts).run(home.engine_socket(config.socket))


def serve(config: EngineConfig, home: Home, journal: Journal, wait: Callable[[], object] | None = None) -> None:
    """Load the model and serve until SIGTERM; returns only if `wait` does.

    SIGTERM kills the process until the model is loaded, since the loader blocks the interpreter and no handler could
    run. After that SIGTERM removes the socket and ends the process with status 0. Raises EngineError AW-ENG-06 for the
    settings, -05 for a damaged file, -14 to -17 and -08 if the model cannot be loaded.
    """
    settings = adapter_settings(config, LlamaSettings)
    model, adapter = find_model(config, home), adapter_file(config, home)
    header = read_gguf(model)
    if adapter is not None:
        check_adapter(config, header, read_gguf(adapter))
    library = load_library()
    if settings.gpu_layers:
        require_gpu(library)
    else:
        require_memory(config, model, header)
    path = find_inner_socket(config, home)
    path.unlink(missing_ok=True)  # of a killed predecessor
    journal.info("loading", model=config.alias, adapter=config.adapter_sha256, slots=config.slots)
    if TEMPLATE_KEY not in header.values and not settings.embeddings and not settings.rerank:
        journal.warning("no_chat_template", model=config.alias, used="chatml")
    log_at = log_size()
    try:
        given = _build_parameters(library, config, settings, header, path)
        given.model.path = str(model)
        _set_task(library, given, config, settings, header)
        if adapter is not None:
            given.lora_adapters = [library.CommonAdapterLoraInfo(str(adapter), 1.0)]
        server = library.Server(given)
    except RuntimeError as error:
        path.unlink(missing_ok=True)  # the library listens before it loads
        raise explain_failure(config, read_log(log_at), str(error)) from error

    def leave(status: int) -> None:
        path.unlink(missing_ok=True)
        os._exit(status)

    woken = leave_on_terminate(home.engine_socket(config.socket), leave)
    journal.info("ready", model=config.alias, socket=str(path))
    if wait is None:
        os.read(woken, 1)
    else:
        wait()
    del server


def find_model(config: EngineConfig, home: Home) -> Path:
    """The model file. Raises MissingError AW-GET-02, EngineError AW-ENG-06 (not named)."""
    path = home.model(require_digest(config))
    if not path.is_file():
        raise missing_model_error(config.alias, path)
    return path


def load_library() -> Any:
    """The package xllamacpp. Raises MissingError AW-GET-01 (the package) or -05 (a system library)."""
    try:
        import xllamacpp  # noqa: PLC0415  the heavy extra of this adapter
    except ImportError as error:
        if "libgomp" not in str(error):
            raise missing_extra("local", "xllamacpp", "the embedded engine") from error
        message = "the engine needs the system library libgomp, which is not installed"
        where = ErrorLocation(field="xllamacpp")
        raise MissingError("AW-GET-05", message, where=where, hint="apt-get install libgomp1") from error
    return xllamacpp


def _build_parameters(
    library: Any, config: EngineConfig, settings: LlamaSettings, header: GgufContents, path: Path
) -> Any:
    given = library.CommonParams()
    # Without an alias, clients see the path of the file as the model's name.
    given.model_alias = {config.alias}
    # The engine listens on a Unix socket if the host name ends in .sock.
    given.hostnames = [str(path)]
    given.n_parallel = config.slots
    # The engine divides its context evenly among the slots. It must not shrink the context to fit the memory.
    given.n_ctx = config.slots * config.context_tokens
    given.fit_params = settings.gpu_layers < 0
    given.n_gpu_layers = settings.gpu_layers
    if REARRANGED.intersection(header.types.values()):
        # Mapped, the file would stay in memory beside the rearranged weights. Otherwise a mapped file decodes faster.
        given.load_mode = library.llama_load_mode.LLAMA_LOAD_MODE_NONE
    given.n_batch = given.n_ubatch = settings.batch_tokens
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = settings.threads
    given.n_predict = config.default_max_tokens
    given.use_jinja = True
    # No prompts of finished requests are kept outside the slots: the plan's memory is all memory.
    given.cache_ram_mib = 0
    given.endpoint_metrics = True
    given.endpoint_props = given.endpoint_slots = given.ui = False
    # The engine writes the reason of a failed start only to the log, and only from this level.
    given.verbosity = 1
    return given


def _set_task(library: Any, given: Any, config: EngineConfig, settings: LlamaSettings, header: GgufContents) -> None:
    """Set what embedding or reranking needs."""
    if not settings.embeddings and not settings.rerank:
        return
    pooling = library.llama_pooling_type
    given.embedding = True
    if settings.rerank:
        given.pooling_type = pooling.LLAMA_POOLING_TYPE_RANK
    elif not header.values.get(f"{header.values.get('general.architecture')}.pooling_type"):
        given.pooling_type = pooling.LLAMA_POOLING_TYPE_MEAN
    # Otherwise texts of different lengths are read in several steps, and the mean covers only the last step.
    given.kv_unified = True
    given.kv_unified_per_slot = config.context_tokens
    # A text is embedded in one step; a longer text is refused. The step costs memory: the process of SmolLM2-135M
    # takes 0.23 GB with a context of 256 tokens, 0.67 GB with 2,048.
    given.n_batch = given.n_ubatch = max(settings.batch_tokens, config.context_tokens)

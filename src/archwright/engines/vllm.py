"""vLLM as a child of this process: `vllm serve FOLDER` on the home's Unix socket, with the launch line of the plan.

Design: the child's output passes through this process into the engine's log, and its last lines name the cause when it
ends (vllm_failures.csv). It gets no API key, no secret, no network for models, and never runs code of a model. A guard
ends the child and its workers when this process is killed, since they would keep the memory of the GPU.
"""

import csv
import json
import re
import shlex
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from os import killpg
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import IO

import msgspec

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_settings, require_digest, require_file
from archwright.engines.model_files import missing_model_error
from archwright.errors import EngineError, ErrorLocation, MissingError
from archwright.home import Home
from archwright.journal import Journal
from archwright.settings import engine_environment

# Older versions lack --uds (pull request 18097) or --shutdown-timeout (pull request 36666, version 0.18).
REQUIREMENT = "vllm>=0.18"
# No reports of use, no model hub, no colours in the log.
ENVIRONMENT = {
    **{"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    **{"VLLM_LOGGING_COLOR": "0", "NO_COLOR": "1"},
}
# Both together end before the supervisor kills this process.
DRAIN_S, KILL_AFTER_S = 8, 10
TAIL_LINES, LINE_BYTES, QUOTE_CHARACTERS = 1000, 1 << 16, 240
# The processes that wrote a line: "(EngineCore_DP0 pid=42) ".
PROCESS_NAMES = re.compile(r"^(?:\([^()]{0,80}\bpid=\d+[^()]{0,80}\)\s*)+")
# Levels of its log, and warnings of PyTorch and Python: a later line has the cause of its end.
HARMLESS = re.compile(r"^(?:\[rank\d+\]:\s*)?(?:(?:DEBUG|INFO|WARNING)\b|\[W\d)|\b\w*Warning: ")
# The sandbox of engines in this process would refuse it; that of a server is `sandbox`.
STARTS_PROGRAMS = True
KILLED = "killed by SIGKILL"
# Ranks of adapters that vLLM can reserve memory for (LoRAConfig, version 0.18).
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Formats of the plan: what vLLM must be told. A folder that is quantised already says so itself.
FORMATS = {"": (), "bf16": ("--dtype", "bfloat16"), "fp16": ("--dtype", "float16"), "fp8": ("--quantization", "fp8")}
# Reads until its input ends with the engine process, then ends the group: first in order, then at once.
GUARD = f'while read -r _; do :; done; kill -s TERM -- "-$1"; sleep {KILL_AFTER_S}; kill -s KILL -- "-$1"'


class VllmSettings(Record):
    """`program`: name on PATH, or path. `tensor`, `pipeline`: GPUs that share the model. `format`: of the weights.

    `reasoning_parser`, `tool_parser`: how it takes reasoning and tool calls out of the model's text.
    `sandbox`: give up rights on files and parts of the kernel; not tried with a real server. The further options are
    those of the plan (contract EngineOptions)."""

    program: str = "vllm"
    tensor: int = 1
    pipeline: int = 1
    format: str = ""
    gpu_memory_utilization: float = 0.92
    prefix_caching: bool = True
    embeddings: bool = False
    chunk_tokens: int = 0
    draft_tokens: int = 0
    draft: str = ""
    kv_format: str = ""
    adapters: int = 0
    reasoning_parser: str = ""
    tool_parser: str = ""
    sandbox: bool = False

    def __post_init__(self) -> None:
        if self.tensor < 1 or self.pipeline < 1 or not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError("tensor and pipeline must be at least 1, gpu_memory_utilization above 0 and at most 1")


class _CheckpointFile(msgspec.Struct):
    """The fields in use of config.json and adapter_config.json."""

    quantization_config: object = None
    r: int = RANKS[0]


def serve(config: EngineConfig, home: Home, journal: Journal) -> None:
    """Serve until SIGTERM, which vLLM gets too: it finishes running requests within DRAIN_S.

    Raises MissingError AW-GET-01 (vLLM is not installed), AW-GET-02 (no model), EngineError AW-ENG-08 if vLLM ends.
    """
    settings = adapter_settings(config, VllmSettings)
    program = shutil.which(settings.program)
    if program is None:
        message = f"the engine needs the program {settings.program}, which is not installed"
        hint = f"pip install '{REQUIREMENT}'"
        raise MissingError("AW-GET-01", message, where=ErrorLocation(field="program"), hint=hint)
    command = [program, "serve", *build_arguments(config, settings, home)]
    path, stopping = home.engine_socket(config.socket), threading.Event()
    command.append(f"--uds={path}")
    started = list[Popen[bytes]]()

    def stop(*_: object) -> None:
        stopping.set()
        signal.alarm(KILL_AFTER_S)
        for child in started:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: _end_group(started[0]))
    journal.info("loading", model=config.alias, command=shlex.join(command))
    env, tail = engine_environment(ENVIRONMENT), deque[str](maxlen=TAIL_LINES)
    with Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=env, process_group=0) as child:
        started.append(child)
        if stopping.is_set():
            child.terminate()
        guarding = ["/bin/sh", "-c", GUARD, "guard", str(child.pid)]
        with Popen(guarding, stdin=PIPE, stderr=DEVNULL, start_new_session=True) as guard:
            assert child.stdout is not None
            relay = threading.Thread(target=_relay_lines, args=(child.stdout, tail), daemon=True)
            relay.start()
            status = child.wait()
            guard.kill()
        _end_group(child)  # workers outlive a killed server
        relay.join(1.0)
    signal.alarm(0)
    path.unlink(missing_ok=True)
    if not stopping.is_set():
        raise explain_failure(status, tail, config.alias)


def build_arguments(config: EngineConfig, settings: VllmSettings, home: Home) -> list[str]:
    """Return the model's folder and the options of `vllm serve`; with an adapter, the alias names the adapter."""
    folder = home.model_folder(require_digest(config))
    if not folder.is_dir():
        raise missing_model_error(config.alias, folder)
    quantised = _read_checkpoint_file(folder / "config.json").quantization_config is not None
    options: dict[str, object] = {
        "--served-model-name": config.alias,
        "--tensor-parallel-size": settings.tensor,
        "--pipeline-parallel-size": settings.pipeline,
        "--max-model-len": config.context_tokens,
        "--max-num-seqs": config.slots,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--shutdown-timeout": DRAIN_S,
    }
    flags = ["--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching"]
    flags += ["--disable-uvicorn-access-log", *(() if quantised else FORMATS.get(settings.format, ()))]
    if settings.embeddings:
        options["--runner"] = "pooling"
    if settings.chunk_tokens:
        options["--max-num-batched-tokens"] = settings.chunk_tokens
    if settings.kv_format == "fp8":
        options["--kv-cache-dtype"] = "fp8"
    if settings.draft_tokens:
        own = settings.draft == "mtp"
        draft = {"method": "mtp"} if own else {"method": "eagle3", "model": settings.draft}
        options["--speculative-config"] = json.dumps({**draft, "num_speculative_tokens": settings.draft_tokens})
    if settings.reasoning_parser:
        options["--reasoning-parser"] = settings.reasoning_parser
    if settings.tool_parser:
        options["--tool-call-parser"] = settings.tool_parser
        flags.append("--enable-auto-tool-choice")
    if config.adapter_sha256 is not None:
        adapter = home.model_folder(config.adapter_sha256)
        rank = _read_checkpoint_file(require_file(adapter / "adapter_config.json", "an adapter")).r
        options |= {"--served-model-name": f"{config.alias}-base", "--lora-modules": f"{config.alias}={adapter}"}
        options |= {
            "--max-loras": max(settings.adapters, 1),
            "--max-lora-rank": next((one for one in RANKS if one >= rank), rank),
        }
        flags.append("--enable-lora")
    # With "=", no value can become an option.
    return [str(folder), *(f"{name}={value}" for name, value in options.items()), *flags]


def explain_failure(status: int, lines: Iterable[str], model: str) -> EngineError:
    """Return the error of an ended vLLM: the last line that a row of vllm_failures.csv matches, with its reason."""
    seen = [text for line in lines if (text := PROCESS_NAMES.sub("", line).strip())]
    failures = [line for line in seen if not HARMLESS.search(line)] + [KILLED] * (status == -signal.SIGKILL)
    where = ErrorLocation(field=f"model {model}")
    with Path(__file__).with_name("vllm_failures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for line in reversed(failures):
        row = next((row for row in rows if re.search(row["pattern"], line)), None)
        if row is not None:
            message = f"vLLM ended with status {status}: {row['reason']} ({line[-QUOTE_CHARACTERS:]})"
            return EngineError("AW-ENG-08", message, where=where, hint=row["hint"])
    causes = (line for line in reversed(failures) if "Error" in line and "root cause above" not in line)
    last = next(causes, seen[-1] if seen else "it wrote nothing")
    message = f"vLLM ended with status {status}: {last[-QUOTE_CHARACTERS:]}"
    return EngineError("AW-ENG-08", message, where=where, hint="read its lines above in this log")


def _read_checkpoint_file(path: Path) -> _CheckpointFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_CheckpointFile)
    except (OSError, msgspec.MsgspecError):
        return _CheckpointFile()  # vLLM names the damage


def _relay_lines(output: IO[bytes], tail: deque[str]) -> None:
    while line := output.readline(LINE_BYTES):
        tail.append(line.decode(errors="replace"))
        with suppress(OSError):  # a full disk must not stop the engine
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def _end_group(child: Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        killpg(child.pid, signal.SIGKILL)

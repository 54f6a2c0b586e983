"""Runs the real engine as the platform does, and queries the log-probabilities that it serves.

Each query starts its own engine process, with or without an adapter, so kernels, quantisation and adapter are those of
serving. The engine reads a pipe from this process, so it ends when this process ends.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, NamedTuple

import msgspec

from archwright import settings
from archwright.contract.plan import ENGINE_ARGUMENTS, ProcessSpec
from archwright.engines.engine_config import EngineConfig
from archwright.engines.engine_process import start_engine
from archwright.errors import EngineError, ErrorLocation, ModelError
from archwright.home import Home, write_atomic
from archwright.http_client.client import EngineClient

READY_WITHIN_S = 120.0
STOP_GRACE_S = 5.0
TICK_S = 0.02
LOG_TAIL_BYTES = 8192
SOCKET_PREFIX = "gate-"
FORCING_BIAS = 1e4
_ERROR_LINE = re.compile(r"AW-[A-Z]+-\d\d  (.+)")


class LogProbabilityQuery(NamedTuple):
    """`prompts` are token ids. A logit bias forces the answer `forced`, a token that ends a character.

    The engine returns nothing while a character is incomplete. Reported log-probabilities are those before the bias.
    """

    prompts: Sequence[Sequence[int]]
    forced: int
    top: int


class RunningEngine(NamedTuple):
    """A ready engine; `startup_s`: seconds from the start of its process until it was ready."""

    address: str
    pid: int
    startup_s: float


def query_log_probabilities(home: Home, config: EngineConfig, query: LogProbabilityQuery) -> list[dict[int, float]]:
    """For each prompt the `top` likeliest next tokens with log-probabilities."""
    with run_engine(home, config) as engine:
        return asyncio.run(_send_prompts(EngineClient(engine.address), query))


async def _send_prompts(client: EngineClient, query: LogProbabilityQuery) -> list[dict[int, float]]:
    request = {
        "n_predict": 1,
        "n_probs": query.top,
        "temperature": 0.0,
        "cache_prompt": True,
        "logit_bias": [[query.forced, FORCING_BIAS]],
    }
    try:
        # In sequence: the engine's cache then holds a prefix of the next prompt.
        return [
            _parse_top_tokens(await client.post("/completion", {"prompt": list(p), **request}), client.address)
            for p in query.prompts
        ]
    finally:
        await client.close()


def _parse_top_tokens(reply: dict[str, Any], address: str) -> dict[int, float]:
    try:
        first = reply["completion_probabilities"][0]
        return {int(token["id"]): float(token["logprob"]) for token in first["top_logprobs"]}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"the engine's reply has no log-probabilities: {type(error).__name__} {error}"
        hint = "install the supported xllamacpp: pip install --upgrade 'archwright[local]'"
        raise EngineError("AW-ENG-03", message, where=ErrorLocation(address), hint=hint) from error


@contextmanager
def run_engine(home: Home, config: EngineConfig, deadline_s: float = READY_WITHIN_S) -> Iterator[RunningEngine]:
    """The ready engine. Raises ModelError AW-MOD-30 with the last log line of a failed start."""
    _remove_leftovers(home)
    file, log = home.config(config.socket), home.log(config.socket)
    write_atomic(file, msgspec.json.encode(config))
    try:
        spec = ProcessSpec(
            name=config.socket,
            argv=ENGINE_ARGUMENTS,
            config=msgspec.to_builtins(config),
            environment={"GOMP_SPINCOUNT": "1000"},
            ready_socket=config.socket,
        )
        begin = time.monotonic()
        with log.open("wb") as sink:
            process = start_engine(spec, home, sink, settings.load().engine_user)
        try:
            address = f"unix:{home.socket(config.socket)}"
            asyncio.run(_wait_until_ready(config.alias, EngineClient(address), process, log, deadline_s))
            yield RunningEngine(address, process.pid, time.monotonic() - begin)
        finally:
            _stop_process(process)
        log.unlink(missing_ok=True)  # not after a failure: the error names the log
    finally:
        file.unlink(missing_ok=True)
        home.remove_socket(config.socket)
        shutil.rmtree(home.engine_root(config.socket), ignore_errors=True)


def socket_name() -> str:
    return f"{SOCKET_PREFIX}{os.getpid()}"


def _remove_leftovers(home: Home) -> None:
    for file in home.folder("run").glob(f"{SOCKET_PREFIX}*.json"):
        number = file.stem.removeprefix(SOCKET_PREFIX)
        if number.isdecimal() and not _is_alive(int(number)):
            home.remove_socket(file.stem)
            home.log(file.stem).unlink(missing_ok=True)
            file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # another user's process is not an evaluation of this home
        return False
    return True


async def _wait_until_ready(
    model: str, client: EngineClient, process: Popen[bytes], log: Path, deadline_s: float
) -> None:
    begin = time.monotonic()
    try:
        while not await client.healthy():
            if process.poll() is not None:
                reason = read_last_error(log) or f"it ended with status {process.returncode}"
                raise _start_error(model, reason, log)
            if time.monotonic() - begin > deadline_s:
                raise _start_error(model, f"it was not ready within {deadline_s:g} s", log)
            await asyncio.sleep(TICK_S)
    finally:
        await client.close()


def read_last_error(log: Path) -> str:
    """The last error in the engine's log, otherwise its last line."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [found[1] for line in lines if (found := _ERROR_LINE.match(line))]
    return (errors or lines or [""])[-1]


def _start_error(model: str, reason: str, log: Path) -> ModelError:
    message = f"the engine for {model} did not start: {reason}"
    hint = "read the log, then run the command again; nothing was changed"
    return ModelError("AW-MOD-30", message, where=ErrorLocation(str(log)), hint=hint)


def _stop_process(process: Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_GRACE_S)
    except TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()

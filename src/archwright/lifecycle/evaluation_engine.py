"""Asks the real engine, started as the platform starts it, for the log-probabilities it would serve.

A process of its own for each question of "with" and "without" an adapter: what is compared is what a user would get,
kernels, quantisation and adapter included. The engine holds the other end of a pipe of ours, so it ends with us.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.engines.embedded_engine import EmbeddedEngine
from archwright.engines.engine_config import EngineConfig
from archwright.errors import EngineError, ErrorLocation, ModelError
from archwright.home import Home, write_atomic
from archwright.http_client.client import EngineClient
from archwright.settings import child_environment

READY_WITHIN_S = 120.0
STOP_GRACE_S = 5.0
TICK_S = 0.02
LOG_TAIL_BYTES = 8192
SOCKET_PREFIX = "gate-"
FORCING_BIAS = 1e4
_ERROR_LINE = re.compile(r"AW-[A-Z]+-\d\d  (.+)")


class LogProbabilityQuery(NamedTuple):
    """`prompts` are token ids. Whatever the engine finds likeliest, it is made to say `word`, a token that is a whole
    character: it holds its answer back, figures and all, while a character is incomplete. The figures are of the
    model's own choice, before that is done."""

    prompts: Sequence[Sequence[int]]
    word: int
    top: int


def query_log_probabilities(home: Home, config: EngineConfig, asking: LogProbabilityQuery) -> list[dict[int, float]]:
    """For each prompt: the `top` likeliest next tokens with their log-probabilities."""
    with run_engine(home, config) as engine:
        return asyncio.run(_send_prompts(engine.client(), asking))


async def _send_prompts(client: EngineClient, asking: LogProbabilityQuery) -> list[dict[int, float]]:
    try:
        # One after the other: a prefix of the next prompt is already read then.
        return [
            _parse_top_tokens(await client.post("/completion", _build_request(asking, p)), client.address)
            for p in asking.prompts
        ]
    finally:
        await client.close()


def _build_request(asking: LogProbabilityQuery, prompt: Sequence[int]) -> dict[str, Any]:
    return {
        "prompt": list(prompt),
        "n_predict": 1,
        "n_probs": asking.top,
        "temperature": 0.0,
        "cache_prompt": True,
        "logit_bias": [[asking.word, FORCING_BIAS]],
    }


def _parse_top_tokens(reply: dict[str, Any], address: str) -> dict[int, float]:
    try:
        first = reply["completion_probabilities"][0]
        return {int(token["id"]): float(token["logprob"]) for token in first["top_logprobs"]}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(
            "AW-ENG-03",
            f"the engine's reply has no log-probabilities: {type(error).__name__} {error}",
            where=ErrorLocation(address),
            hint="the installed xllamacpp speaks differently: pip install --upgrade 'archwright[local]'",
        ) from error


@contextmanager
def run_engine(home: Home, config: EngineConfig, deadline_s: float = READY_WITHIN_S) -> Iterator[EmbeddedEngine]:
    """The engine, ready to be asked; stopped at the end. Raises ModelError AW-MOD-30 with the last words of its log
    when it does not start."""
    _remove_leftovers(home)
    file, log = home.config(config.socket), home.log(config.socket)
    write_atomic(file, msgspec.json.encode(config))
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "archwright.engines", str(home.root), str(file)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                env=child_environment({"PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "1000"}),
                start_new_session=True,
            )
        try:
            engine = EmbeddedEngine(home, config)
            asyncio.run(_wait_until_ready(engine, process, log, deadline_s))
            yield engine
        finally:
            _stop_process(process)
        log.unlink(missing_ok=True)  # of an engine that failed it is kept: the error names it
    finally:
        file.unlink(missing_ok=True)
        home.socket(config.socket).unlink(missing_ok=True)


def socket_name() -> str:
    """The name of an engine that this process starts for itself."""
    return f"{SOCKET_PREFIX}{os.getpid()}"


def _remove_leftovers(home: Home) -> None:
    """Remove what an evaluation that was killed left behind."""
    for file in home.folder("run").glob(f"{SOCKET_PREFIX}*.json"):
        number = file.stem.removeprefix(SOCKET_PREFIX)
        if number.isdecimal() and not _is_alive(int(number)):
            for left in (home.socket(file.stem), home.log(file.stem), file):
                left.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # a stranger's process is none of ours
        return False
    return True


async def _wait_until_ready(
    engine: EmbeddedEngine, process: subprocess.Popen[bytes], log: Path, deadline_s: float
) -> None:
    client, begin = engine.client(), time.monotonic()
    try:
        while not await client.healthy(engine.health_path):
            if process.poll() is not None:
                raise _start_error(
                    engine.config, read_last_error(log) or f"it ended with status {process.returncode}", log
                )
            if time.monotonic() - begin > deadline_s:
                raise _start_error(engine.config, f"not ready within {deadline_s:g} s", log)
            await asyncio.sleep(TICK_S)
    finally:
        await client.close()


def read_last_error(log: Path) -> str:
    """The last error the engine wrote, else its last line."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [found[1] for line in lines if (found := _ERROR_LINE.match(line))]
    return (errors or lines or [""])[-1]


def _start_error(config: EngineConfig, reason: str, log: Path) -> ModelError:
    return ModelError(
        "AW-MOD-30",
        f"the engine that would serve {config.alias} did not start: {reason}",
        where=ErrorLocation(str(log)),
        hint="the log says more; nothing was changed, and `archwright models evaluate` can be run again",
    )


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()

"""Compares the embedded engine, as the platform starts it, with xllamacpp's own server started plainly.

    python -m bench.engine.compare MODEL.gguf [--threads 2] [--starts 5] [--rounds 4] [--tokens 64] [-o result.json]

Both processes load the same file with equal settings: threads, one slot, context and batch. Ours listens on a Unix
socket, the other on a TCP port. Requests alternate, one at a time, and each round is a pair with the same prompt, so
neighbours disturb both alike. Both processes are started again for each of `--starts` runs, because one process of
either kind is up to 10 % faster than the next for as long as it lives. Decode is the engine's own rate, CPU time that
of the process, and a request's time what the client sees.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.engine.measure import BATCH_TOKENS, CONTEXT_TOKENS, FOREIGN_KERNEL, SPIN, Engine

from archwright.settings import child_environment

PROMPT_TOKENS = 16
# A program of its own: the server as its documentation starts it, with the settings of the platform's engine.
SERVER = """
import sys, signal, xllamacpp
model, threads, context, batch = sys.argv[1], *map(int, sys.argv[2:])
given = xllamacpp.CommonParams()
given.model.path = model
given.n_parallel, given.n_ctx, given.fit_params = 1, context, False
given.n_batch = given.n_ubatch = batch
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(given)
print(server.listening_address, flush=True)
signal.pause()
"""
Ask = Callable[[dict[str, Any]], dict[str, Any]]


class Sample(NamedTuple):
    """One request: the engine's tokens/s, CPU seconds of its process per token, and the client's seconds."""

    rate: float
    cpu_s: float
    seconds: float


class Server(NamedTuple):
    ask: Ask
    pid: int

    def read_cpu_s(self) -> float:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text(encoding="ascii").split()[0]) for one in threads) / 1e9

    def take_sample(self, body: dict[str, Any]) -> Sample:
        cpu, begin = self.read_cpu_s(), time.monotonic()
        timings = self.ask(body)["timings"]
        seconds = time.monotonic() - begin
        assert timings["predicted_n"] == body["n_predict"], timings
        return Sample(timings["predicted_per_second"], (self.read_cpu_s() - cpu) / body["n_predict"], seconds)


def start_plain_server(model: Path, threads: int) -> tuple[subprocess.Popen[str], Ask]:
    words = [sys.executable, "-c", SERVER, str(model), str(threads), str(CONTEXT_TOKENS), str(BATCH_TOKENS)]
    environment = child_environment(SPIN, without=FOREIGN_KERNEL)
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    host, _, port = process.stdout.readline().strip().removeprefix("http://").rpartition(":")

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(host, int(port), timeout=300)
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        reply: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return reply

    return process, ask


def compare(ours: Server, plain: Server, rounds: int, tokens: int) -> list[tuple[Sample, Sample]]:
    """Return a pair of samples (ours, plain) for each round; who is first alternates."""
    chance, found = random.Random(1), list[tuple[Sample, Sample]]()
    for number in range(rounds + 1):
        prompt = [chance.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)]
        body = {"prompt": prompt, "n_predict": tokens, "cache_prompt": False, "ignore_eos": True, "temperature": 0}
        if number % 2:
            first = ours.take_sample(body)
            pair = first, plain.take_sample(body)
        else:
            second = plain.take_sample(body)
            pair = ours.take_sample(body), second
        if number:  # the first pair warms both up
            found.append(pair)
    return found


def compare_processes(given: argparse.Namespace) -> list[tuple[Sample, Sample]]:
    process, plain = start_plain_server(given.model, given.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(given.model, Path(folder), given.threads, slots=1)
            try:
                ours = Server(engine.complete, engine.process.pid)
                return compare(ours, Server(plain, process.pid), given.rounds, given.tokens)
            finally:
                engine.stop()
    finally:
        process.kill()
        process.wait()


def summarise(pairs: list[tuple[Sample, Sample]]) -> dict[str, Any]:
    ratios = sorted(own.rate / other.rate for own, other in pairs)
    cut = len(ratios) // 4
    return {
        "decode_ratio": statistics.median(ratios),
        "decode_ratio_quartiles": [ratios[cut], ratios[-cut - 1]],
        "cpu_time_ratio": statistics.median(own.cpu_s / other.cpu_s for own, other in pairs),
        "decode_tokens_per_s": [statistics.median(pair[side].rate for pair in pairs) for side in (0, 1)],
        "request_p50_s": [statistics.median(pair[side].seconds for pair in pairs) for side in (0, 1)],
        "rounds": len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    pairs = [pair for _ in range(given.starts) for pair in compare_processes(given)]
    result = summarise(pairs)
    text = json.dumps({"model": given.model.name, "threads": given.threads, "order": "ours, plain", **result}, indent=1)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

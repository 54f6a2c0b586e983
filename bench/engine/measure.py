"""Measures what share of the probed rates the embedded engine reaches: the figures behind a row of efficiencies.csv.

    python bench/engine/measure.py MODEL.gguf [--rounds 3] [--threads 1] [--slots 4] [-o result.json]

Every round first probes the machine (matrix product and memory bandwidth, one thread), then asks the engine, started
as the product starts it, for: prompts of several lengths without any cache, answers at batch 1 to 8, an answer in
a long context, and an answer beside a long prompt. Speeds come from the engine's own timings. Rates are printed per
round, and shares of the probe of that very round, since neighbours disturb both alike. Memory is the proportional
set size of the engine's process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from archwright.engines.engine_config import EngineConfig
from archwright.engines.gguf import read_gguf
from archwright.home import Home
from archwright.settings import child_environment

PROMPTS = (16, 48, 128, 256, 512, 1024)
BATCHES = (1, 2, 3, 4, 6, 8)
ANSWER_TOKENS = 48
LONG_PROMPT = 768
FOREIGN_KERNEL = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
SPIN = {"GOMP_SPINCOUNT": "1000"}
CONTEXT_TOKENS, BATCH_TOKENS = 2048, 64


class Work(NamedTuple):
    """Parameters of a dense model, as sizing counts them: without the embeddings, of the output head, and the attention
    width x layers."""

    body: float
    head: float
    attention: float

    def prefill_flops(self, tokens: int) -> float:
        return 2 * self.body * tokens + 2 * tokens**2 * self.attention + 2 * self.head


def read_work(model: Path) -> Work:
    header = read_gguf(model)
    name = header.values["general.architecture"]
    layers, heads, hidden = (
        int(header.values[f"{name}.{key}"]) for key in ("block_count", "attention.head_count", "embedding_length")
    )
    width = int(header.values.get(f"{name}.attention.key_length", hidden // heads))
    head = prod(header.shapes["token_embd.weight"])
    outside = {"token_embd.weight", "output.weight"}
    body = sum(prod(shape) for tensor, shape in header.shapes.items() if tensor not in outside)
    return Work(body, head, heads * width * layers)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Engine:
    """One engine process in a home of its own, and questions to it."""

    def __init__(self, model: Path, folder: Path, threads: int, slots: int) -> None:
        home = Home(folder)
        home.model("0" * 64).symlink_to(model.absolute())
        config = {
            "engine": "llamacpp",
            "socket": "engine",
            "alias": "m",
            "slots": slots,
            "context_tokens": CONTEXT_TOKENS,
            "default_max_tokens": 256,
            "model_sha256": "0" * 64,
            "settings": {"threads": threads, "batch_tokens": BATCH_TOKENS},
        }
        home.config("engine").write_text(json.dumps(config), encoding="utf-8")
        assert set(config) <= set(EngineConfig.__struct_fields__)
        self._socket = home.socket("engine")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "archwright.engines", str(folder), str(home.config("engine"))],
            env=child_environment(SPIN, without=FOREIGN_KERNEL),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self._healthy():
            assert self.process.poll() is None, "the engine did not start"
            time.sleep(0.01)
        self.startup_s = time.monotonic() - begin

    def _healthy(self) -> bool:
        try:
            return self._call("GET", "/health", None)[0] == 200
        except OSError:
            return False

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = UnixConnection(self._socket)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def ask(self, prompt_tokens: int, answer_tokens: int, chance: random.Random) -> dict[str, float]:
        """The engine's timings of one request with a prompt nobody has seen before."""
        body = {
            "prompt": [chance.randrange(1000, 40000) for _ in range(prompt_tokens)],
            "n_predict": answer_tokens,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        timings: dict[str, float] = self.complete(body)["timings"]
        return timings

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        status, raw = self._call("POST", "/completion", body)
        assert status == 200, raw
        reply: dict[str, Any] = json.loads(raw)
        return reply

    def memory_bytes(self) -> int:
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert found
        return int(found.group(1)) * 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def probe(model: Path) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "archwright.catalog.probe.probe_worker", str(model.absolute())],
        env=child_environment({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, without=FOREIGN_KERNEL),
        capture_output=True,
        check=True,
    )
    return {name: statistics.median(rates) for name, rates in json.loads(run.stdout).items()}


def answers_at(engine: Engine, batch: int, chance: random.Random) -> float:
    """Seconds between two tokens of a stream when `batch` of them run side by side."""
    found: list[float] = []

    def one(seed: int) -> None:
        found.append(engine.ask(4, ANSWER_TOKENS, random.Random(seed))["predicted_per_token_ms"] / 1e3)

    threads = [threading.Thread(target=one, args=(chance.randrange(1 << 30),)) for _ in range(batch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.mean(found)


def beside_a_prompt(engine: Engine, chance: random.Random) -> dict[str, float]:
    """One answer runs while a long prompt is read: how long the reading takes, and what the answer's stall is."""
    running: dict[str, float] = {}
    seed = chance.randrange(1 << 30)
    thread = threading.Thread(target=lambda: running.update(engine.ask(4, 120, random.Random(seed))))
    thread.start()
    time.sleep(0.3)
    long = engine.ask(LONG_PROMPT, 1, chance)
    thread.join()
    return {"prompt_s": long["prompt_ms"] / 1e3, "answer_s": running["predicted_ms"] / 1e3}


def one_round(engine: Engine, model: Path, chance: random.Random) -> dict[str, Any]:
    before, work = probe(model), read_work(model)
    prompts = {n: engine.ask(n, 1, chance)["prompt_ms"] / 1e3 for n in PROMPTS}
    answers = {batch: answers_at(engine, batch, chance) for batch in BATCHES}
    long_context = engine.ask(LONG_PROMPT, 32, chance)["predicted_per_token_ms"] / 1e3
    mixed = beside_a_prompt(engine, chance)
    after = probe(model)
    rates = {name: (before[name] * after[name]) ** 0.5 for name in before}
    return {
        "probe": rates,
        "prompt_s": prompts,
        "prefill_share": {n: work.prefill_flops(n) / took / rates["matmul"] for n, took in prompts.items()},
        "tpot_s": answers,
        "decode_share": {b: 2 * (work.body + work.head) * b / took / rates["matmul"] for b, took in answers.items()},
        "tpot_long_context_s": long_context,
        "beside_a_prompt": mixed,
        "memory_bytes": engine.memory_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(given.model, Path(folder), given.threads, given.slots)
        try:
            idle = engine.memory_bytes()
            engine.ask(64, 8, chance)
            rounds = [one_round(engine, given.model, chance) for _ in range(given.rounds)]
        finally:
            engine.stop()
    result = {"startup_s": engine.startup_s, "idle_memory_bytes": idle, "slots": given.slots, "rounds": rounds}
    text = json.dumps(result, indent=1)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

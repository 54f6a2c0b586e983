"""Measures the embedded engine over sizes and quantisations: the rows behind efficiencies.csv.

    python -m bench.engine.sweep 1B:Q4_K_M 4B:Q8_0 [--threads 1] [--folder /tmp/models] -o sweep.jsonl

Every point is a model with random weights (synthetic_model.py) in an engine that the product starts. One JSON line
per point: the probe (rates of one thread), start-up, proportional set size idle and at the peak, seconds of prompts by
length, seconds per token by batch. With one thread, times are the engine's own CPU seconds: its wall time x the share
of a core that it got. So neighbours that take the core do not count; those that use the memory still do.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.engine import measure
from bench.engine.synthetic_model import SHAPES

from archwright.engines.synthetic_model import write_synthetic_model

SLOTS = 4
BATCHES = (1, 2, 4)
LARGE_BYTES = 1.5e9


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads of the process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def measure_point(model: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Measure one model file; each figure is the least of `rounds`, since neighbours only slow an engine down."""
    large = model.stat().st_size > LARGE_BYTES
    measure.ANSWER_TOKENS = 16 if large else 32
    chance, prompts = random.Random(5), (64, 128) if large else (64, 256, 512)
    before = measure.probe(model)
    with tempfile.TemporaryDirectory() as folder:
        engine = measure.Engine(model, Path(folder), threads, SLOTS)
        try:
            started_cpu_s, idle = read_cpu_s(engine.process.pid), engine.memory_bytes()
            engine.ask(8, 2, chance)

            def run(ask: Callable[[], float]) -> float:
                return min(_undisturbed_s(engine, threads, ask) for _ in range(rounds))

            prefill = {n: run(lambda n=n: engine.ask(n, 1, chance)["prompt_ms"] / 1e3) for n in prompts}  # type: ignore[misc]
            decode = {b: run(lambda b=b: measure.answers_at(engine, b, chance)) for b in BATCHES}  # type: ignore[misc]
            peak = engine.memory_bytes()
        finally:
            engine.stop()
    after = measure.probe(model)
    return {
        "threads": threads,
        "bytes": model.stat().st_size,
        "probe": {name: max(before[name], after[name]) for name in before},
        "startup_s": engine.startup_s,
        "startup_cpu_s": started_cpu_s,
        "idle": idle,
        "peak": peak,
        "prefill": prefill,
        "decode": decode,
    }


def _undisturbed_s(engine: measure.Engine, threads: int, ask: Callable[[], float]) -> float:
    """Return the seconds that `ask` reports, without the time that a one-thread engine waited for a core."""
    cpu, wall = read_cpu_s(engine.process.pid), time.monotonic()
    seconds = ask()
    share = (read_cpu_s(engine.process.pid) - cpu) / (time.monotonic() - wall)
    return seconds * min(share, 1.0) if threads == 1 else seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", help="SHAPE:QUANTISATION")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the models here (default: each is removed)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    for point in given.points:
        shape, quantisation = point.split(":")
        with tempfile.TemporaryDirectory() as scratch:
            model = (given.folder or Path(scratch)) / f"{shape}-{quantisation}.gguf"
            if not model.exists():
                write_synthetic_model(model, SHAPES[shape], quantisation)
            found = measure_point(model, given.threads, given.rounds)
        line = json.dumps({"shape": shape, "quantisation": quantisation, **found})
        with given.output.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()

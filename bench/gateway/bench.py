"""CPU per request of the gateway, against the least a Python gateway can cost, in one interleaved run.

    python bench/gateway/bench.py [--rounds 3] [--phases sat,sat-stream,lat,stream,ssat]

Needs two cores, a C compiler and the package. A mock engine and the load generator (gwbench.c) run on one core, the
gateway under test on the other. Wall-clock rates suffer from neighbours, CPU time and the ratio in one run do not.
Our gateway asks its engine for a stream even when the client wants one reply, so `sat` gives it 16 chunks to read
where the reference reads one body; `sat-stream` is the same work for both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from archwright.access.identity import Keys, load_pepper
from archwright.home import Home
from archwright.serving.config import EndpointSpec, GatewayConfig, PoolSpec
from archwright.serving.config import Target as Served
from archwright.store import Store

HERE = Path(__file__).parent
MOCK_PORT, GATEWAY_PORT, RAW_PORT = 18100, 18300, 18203
GATEWAY_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
PHASES = {
    "sat": "--model mock-0 --conc 64 --warmup 0.7 --duration 2.5",
    "sat-stream": "--model mock-0 --conc 64 --warmup 0.7 --duration 2.5 --stream",
    "lat": "--model mock-20 --rate 200 --warmup 0.7 --duration 3",
    "stream": "--model mock-0-20 --conc 50 --warmup 1.1 --duration 3 --stream --tokens 50",
    "ssat": "--model mock-0-5 --conc 256 --warmup 1 --duration 2.5 --stream --tokens 100",
}
MODELS = ("mock-0", "mock-20", "mock-0-20", "mock-0-5")


@dataclass
class Target:
    name: str
    port: int
    key: str = ""
    process: subprocess.Popen[bytes] | None = None
    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def processes(self) -> list[int]:
        """A master and its workers."""
        if self.pid is None:
            return []
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def cpu_s(self) -> float:
        ticks = 0
        for pid in self.processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory_mb(self) -> float:
        kilobytes = 0
        for pid in self.processes:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return round(kilobytes / 1024, 1)


def pinned(core: str, *command: str) -> list[str]:
    return ["taskset", "-c", core, *command]


def build(folder: Path) -> str:
    program = folder / "gwbench"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "gwbench.c")], check=True)
    return str(program)


def start_gateway(folder: Path) -> Target:
    home = Home(folder / "home")
    keys = Keys(Store(home.store_url), load_pepper(home))
    keys.create_tenant("bench")
    target = Target("archwright", GATEWAY_PORT, keys.create("bench")[0])
    pools = tuple(
        PoolSpec(
            name=model, addresses=(f"http://127.0.0.1:{MOCK_PORT}/v1",), model=model, slots=400, context_tokens=100_000
        )
        for model in MODELS
    )
    endpoints = tuple(
        EndpointSpec(model=model, workload=model, targets=(Served(pool=model),), default_max_tokens=16)
        for model in MODELS
    )
    config = home.config("gateway")
    config.write_bytes(msgspec.json.encode(GatewayConfig(pools=pools, endpoints=endpoints, port=GATEWAY_PORT)))
    command = [sys.executable, "-m", "archwright.serving", str(home.root), str(config)]
    target.process = subprocess.Popen(pinned(GATEWAY_CORE, *command), stdin=subprocess.PIPE)
    return target


def start_raw() -> Target:
    target = Target("raw-work", RAW_PORT, "sk-bench")
    command = [sys.executable, str(HERE / "raw_work.py"), str(RAW_PORT), str(MOCK_PORT), target.key]
    target.process = subprocess.Popen(pinned(GATEWAY_CORE, *command))
    return target


def wait_for(target: Target) -> None:
    """Until a chat request is answered."""
    body = json.dumps({"model": "mock-0", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=2) as reply:
                reply.read()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def run_phase(program: str, target: Target, phase: str) -> dict[str, float]:
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    arguments = [program, "load", "--url", url, *PHASES[phase].split()]
    if target.key:
        arguments += ["--key", target.key]
    before = target.cpu_s()
    done = subprocess.run(pinned(LOAD_CORE, *arguments), capture_output=True, check=True, timeout=60)
    spent = target.cpu_s() - before
    found: dict[str, Any] = json.loads(done.stdout)
    unit = "chunks" if phase in ("stream", "ssat") else "ok"
    found["cpu_us"] = round(spent / max(1, found[f"all_{unit}"]) * 1e6, 1)
    found["memory_mb"] = target.memory_mb()
    return found


def summary(targets: list[Target], phases: list[str]) -> dict[str, Any]:
    def median(target: Target, phase: str, name: str) -> float:
        return round(statistics.median(result[name] for result in target.results[phase]), 3)

    names = ("cpu_us", "rps", "p50_ms", "p99_ms", "chunks_per_s", "chunk_p50_ms", "errors", "memory_mb")
    found: dict[str, Any] = {
        target.name: {phase: {name: median(target, phase, name) for name in names} for phase in phases}
        for target in targets
    }
    ours, raw = found["archwright"], found["raw-work"]
    found["ratio"] = {phase: round(ours[phase]["cpu_us"] / max(raw[phase]["cpu_us"], 0.1), 2) for phase in phases}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", default="sat,sat-stream,lat,stream,ssat")
    given = parser.parse_args()
    phases = given.phases.split(",")
    folder = Path(tempfile.mkdtemp(prefix="gwbench-"))
    program = build(folder)
    mock = subprocess.Popen(pinned(LOAD_CORE, program, "mock", "--port", str(MOCK_PORT)))
    targets = [Target("direct", MOCK_PORT)]
    try:
        targets += [start_raw(), start_gateway(folder)]
        for target in targets:
            wait_for(target)
        for _ in range(given.rounds):
            for phase in phases:
                for target in targets:
                    target.results.setdefault(phase, []).append(run_phase(program, target, phase))
                    time.sleep(0.3)
        print(json.dumps(summary(targets, phases), indent=1))
    finally:
        for process in [mock, *(target.process for target in targets)]:
            if process is not None:
                process.terminate()
                process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""CPU per request of the gateway, against the least a Python gateway can cost, in one interleaved run.

    python -m bench.gateway.bench [--rounds 3] [--phases sat,hit,...] [--references DIR] [--before CHECKOUT]

Needs two cores, a C compiler and the package. A mock engine and the load generator (gwbench.c) run on one core, the
gateway under test on the other, alone: the rest stand still meanwhile. Wall-clock rates suffer from neighbours, CPU
time and the ratio in one run do not.
Ours has everything on: a key with rpm, tpm and a budget, its tenant too; prices, ledger, audit, metrics, and the exact
cache for what was asked with temperature 0, which in every phase but `hit` nothing is. In `sat` the engine gives one
body, in `sat-stream` 16 chunks. References (references.py) run where they are there. `--before` adds the gateway of
another checkout by its `.venv`: a change is judged by both in one run. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import HERE, OwnGateway, answered, build, cpu_s, endpoint, family, free_port, memory_mb, pinned, pool
from .references import Reference, references

GATEWAY_CORE, LOAD_CORE = "0", "1"
PHASES = {
    "sat": "--model mock-0 --conc 64 --warmup 0.7 --duration 2.5",
    "hit": "--model mock-0 --conc 64 --warmup 0.7 --duration 2.5 --temperature 0",
    "sat-stream": "--model mock-0 --conc 64 --warmup 0.7 --duration 2.5 --stream",
    "lat": "--model mock-20 --rate 200 --warmup 0.7 --duration 3",
    "stream": "--model mock-0-20 --conc 50 --warmup 1.1 --duration 3 --stream --tokens 50",
    "ssat": "--model mock-0-5 --conc 256 --warmup 1 --duration 2.5 --stream --tokens 100",
}
OWN = ("direct", "raw-work", "archwright", "before")
PER_CHUNK = ("stream", "ssat")
MODELS = ("mock-0", "mock-20", "mock-0-20", "mock-0-5")
SETTLED_S = 0.04  # of CPU in 0.3 s: it has worked off what the phase before left


@dataclass
class Target:
    """Something that answers chats; without `start` it runs already."""

    name: str
    port: int
    key: str = ""
    model: str = "{}"
    path: str = "/v1"
    start: Callable[[], subprocess.Popen[bytes]] | None = None
    url_file: Path | None = None
    phases: dict[str, str] = field(default_factory=lambda: dict(PHASES))
    process: subprocess.Popen[bytes] | None = None
    ready_s: float = 0.0
    idle_mb: float = 0.0
    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def begin(self) -> None:
        """Started, and its first chat answered."""
        begun = time.monotonic()
        if self.start is not None:
            self.process = self.start()
        if self.url_file is not None:
            self._find(begun + 60)
        answered(self.port, self.key, self.model.format("mock-0"), 90.0, self.path)
        self.ready_s = round(time.monotonic() - begun, 2)
        if self.process is not None:
            time.sleep(0.5)
            self.idle_mb = memory_mb(self.process.pid)

    def _find(self, until: float) -> None:
        assert self.url_file is not None
        while not self.url_file.exists() or not (url := self.url_file.read_text()):
            if time.monotonic() > until:
                raise TimeoutError(self.name)
            time.sleep(0.01)
        address, _, path = url.partition("://")[2].partition("/")
        self.port, self.path = int(address.rpartition(":")[2]), "/" + path.strip("/")

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid) if self.process else 0.0

    def run(self, program: str, phase: str) -> None:
        url = f"http://127.0.0.1:{self.port}{self.path}/chat/completions"
        words = self.phases[phase].split()
        words[1] = self.model.format(words[1])
        arguments = [program, "load", "--url", url, *words]
        if self.key:
            arguments += ["--key", self.key]
        self._signal(signal.SIGCONT)
        self._settle()
        before = self.cpu_s()
        done = subprocess.run(pinned(LOAD_CORE, *arguments), capture_output=True, check=True, timeout=60)
        spent = self.cpu_s() - before
        found: dict[str, Any] = json.loads(done.stdout)
        unit = "chunks" if phase in PER_CHUNK else "ok"
        found["cpu_us"] = round(spent / max(1, found[f"all_{unit}"]) * 1e6, 1)
        found["memory_mb"] = memory_mb(self.process.pid) if self.process else 0.0
        if found["errors"]:
            print(f"{self.name} {phase}: {found['errors']} errors: {found['error_text']}", file=sys.stderr)
        self.results.setdefault(phase, []).append(found)
        self._settle()
        self.pause()

    def pause(self) -> None:
        """It stands still while others are measured: the timers of seven gateways wear out the cache of one core."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for one in family(self.process.pid) if self.process is not None else ():
            with suppress(ProcessLookupError):
                os.kill(one, number)

    def _settle(self) -> None:
        until = time.monotonic() + 7
        time.sleep(0.2)
        while self.process is not None and time.monotonic() < until:
            before = self.cpu_s()
            time.sleep(0.3)
            if self.cpu_s() - before < SETTLED_S:
                return

    def stop(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()


def ours(folder: Path, engine_port: int) -> Target:
    pools = tuple(pool(model, engine_port) for model in MODELS)
    gateway = OwnGateway(folder / "archwright", pools, tuple(map(endpoint, MODELS)))
    (key,) = gateway.keys(["bench"])

    def start() -> subprocess.Popen[bytes]:
        gateway.start(GATEWAY_CORE)
        assert gateway.process is not None
        return gateway.process

    return Target("archwright", gateway.port, key, start=start)


MAKE_HOME = """
import json, sys
from pathlib import Path
from bench.gateway.bench import MODELS
from bench.gateway.processes import OwnGateway, endpoint, pool
pools = tuple(pool(model, int(sys.argv[2])) for model in MODELS)
gateway = OwnGateway(Path(sys.argv[1]), pools, tuple(map(endpoint, MODELS)))
(key,) = gateway.keys(["bench"])
print(json.dumps({"key": key, "port": gateway.port, "file": str(gateway.write())}))
"""


def another(folder: Path, engine_port: int, checkout: Path) -> Target:
    """The gateway of another checkout, whose own program makes its home: stores and configurations differ."""
    python, home = str(checkout / ".venv" / "bin" / "python"), folder / "before"
    made = subprocess.run(
        [python, "-c", MAKE_HOME, str(home), str(engine_port)], cwd=checkout, capture_output=True, check=True
    )
    described = json.loads(made.stdout)

    def start() -> subprocess.Popen[bytes]:
        command = pinned(GATEWAY_CORE, python, "-P", "-m", "archwright.serving", str(home), described["file"])
        with (folder / "before.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    return Target("before", described["port"], described["key"], start=start)


def raw_work(engine_port: int) -> Target:
    port, key = free_port(), "sk-bench"
    command = [sys.executable, str(HERE / "raw_work.py"), str(port), str(engine_port), key]
    return Target("raw-work", port, key, start=lambda: subprocess.Popen(pinned(GATEWAY_CORE, *command)))


def reference(one: Reference, log: Path) -> Target:
    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as opened:
            return subprocess.Popen(pinned(GATEWAY_CORE, *one.command), stdout=opened, stderr=opened, cwd=log.parent)

    phases = dict(PHASES if one.phases is None else one.phases)
    return Target(one.name, one.port, one.key, one.model, "/v1", start, one.url_file, phases)


def summary(targets: list[Target], phases: list[str]) -> dict[str, Any]:
    """Medians; what is `added` is against the engine asked directly in the same round."""
    direct, raw = targets[0], targets[1]
    names = ("cpu_us", "rps", "p50_ms", "p99_ms", "chunks_per_s", "chunk_p50_ms", "errors", "memory_mb")
    found: dict[str, Any] = {}
    for target in targets:
        found[target.name] = {"ready_s": target.ready_s, "idle_mb": target.idle_mb}
        for phase in phases:
            results = target.results.get(phase)
            if not results:
                continue
            line: dict[str, Any] = {name: round(statistics.median(one[name] for one in results), 3) for name in names}
            line["all_cpu_us"] = [one["cpu_us"] for one in results]
            for name in ("p50_ms", "p99_ms", "chunk_p50_ms"):
                pairs = zip(results, direct.results[phase], strict=True)
                line[f"added_{name}"] = round(statistics.median(one[name] - base[name] for one, base in pairs), 3)
            if phase in raw.results and target is not direct:
                pairs = zip(results, raw.results[phase], strict=True)
                ratios = [one["cpu_us"] / max(base["cpu_us"], 0.1) for one, base in pairs]
                line["ratio"] = round(statistics.median(ratios), 2)
            found[target.name][phase] = line
    return found


def list_targets(work: Path, engine_port: int, folder: Path | None, before: Path | None) -> list[Target]:
    targets = [Target("direct", engine_port), raw_work(engine_port), ours(work, engine_port)]
    if before is not None:
        targets.append(another(work, engine_port, before.absolute()))
    if folder is not None:
        known = references(folder, work, engine_port, MODELS)
        targets += [reference(one, work / f"{one.name}.log") for one in known]
    return targets


def measure(rounds: int, phases: list[str], folder: Path | None, before: Path | None = None) -> dict[str, Any]:
    """Everything, interleaved: of each round every phase, of each phase every target, one after another."""
    work = Path(tempfile.mkdtemp(prefix="gwbench-"))
    program = build(work)
    engine_port = free_port()
    mock = subprocess.Popen(pinned(LOAD_CORE, program, "mock", "--port", str(engine_port)))
    targets = list_targets(work, engine_port, folder, before)
    load = [os.getloadavg()[0]]
    begun: list[Target] = []
    try:
        for target in tuple(targets):
            begun.append(target)
            try:
                target.begin()
                target.pause()
            except (OSError, urllib.error.URLError) as error:
                if target.name in OWN:
                    raise
                log = work / f"{target.name}.log"
                print(f"{target.name}: did not come up: {error}\n{log.read_text()[-1000:]}", file=sys.stderr)
                targets.remove(target)
        for _ in range(rounds):
            for phase in phases:
                for target in targets:
                    # A hit is our own word; the reference asks its engine then.
                    foreign = phase == "hit" and target.name not in OWN
                    if phase in target.phases and not foreign:
                        target.run(program, phase)
        return {**summary(targets, phases), "load": [*load, os.getloadavg()[0]], "rounds": rounds}
    finally:
        for target in begun:
            target.stop()
        mock.terminate()
        mock.wait()
        shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--references", type=Path, help="the folder references.py filled")
    parser.add_argument("--before", type=Path, help="another checkout, whose gateway is measured too")
    given = parser.parse_args()
    found = measure(given.rounds, given.phases.split(","), given.references, given.before)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

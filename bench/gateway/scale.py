"""Measure the gateway with many keys, and with a second worker.

    python -m bench.gateway.scale [--keys 10000] [--tenants 1000] [--rounds 3]

Two gateways run interleaved, one with a single key, one with many; all keys and tenants have limits. Figures: time from
start to the first answer, memory, CPU of each key's first request (as many as FIRST_S allows), and CPU per request of
one key and of many keys. Then one worker runs against two workers. The two cores hold workers, engine and load
generator, so the rate of two workers says little. CPU per request says whether sharing limits, cache and records costs
anything. Prints one JSON object.
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
from pathlib import Path
from typing import Any

from .processes import OwnGateway, answered, build, cpu_s, endpoint, free_port, memory_mb, pinned, pool

MODEL = "mock-0"
STARTS = 5
LOAD = "--model mock-0 --conc 64"
USUAL = ("--warmup", "0.7", "--duration", "2.5")
FIRST_S, FIRST_CONC = 30, 8


class Bench:
    """The engine and the load generator, on one core."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = build(folder)
        self.engine_port = free_port()
        self.engine = subprocess.Popen(pinned("1", self.program, "mock", "--port", str(self.engine_port)))

    def gateway(self, name: str, workers: int = 1) -> OwnGateway:
        made = OwnGateway(self.folder / name, (pool(MODEL, self.engine_port),), (endpoint(MODEL),), workers)
        return made

    def started(self, gateway: OwnGateway, key: str, core: str = "0") -> float:
        """Seconds from the start to the first answer."""
        begun = time.monotonic()
        gateway.start(core)
        answered(gateway.port, key, MODEL)
        return time.monotonic() - begun

    def load(self, gateway: OwnGateway, *words: str, core: str = "1") -> dict[str, float]:
        url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
        command = [self.program, "load", "--url", url, *LOAD.split(), *words]
        before = cpu_s(gateway.pid)
        done = subprocess.run(pinned(core, *command), capture_output=True, check=True, timeout=120)
        found: dict[str, float] = json.loads(done.stdout)
        if found["errors"]:
            print(f"{found['errors']} errors: {found['error_text']}", file=sys.stderr)
        return {**found, "cpu_us": (cpu_s(gateway.pid) - before) / found["all_ok"] * 1e6}

    def close(self) -> None:
        self.engine.terminate()
        self.engine.wait()


def keys(bench: Bench, count: int, tenants: int, rounds: int) -> dict[str, Any]:
    names = [f"t{number}" for number in range(tenants)]
    few, many = bench.gateway("few"), bench.gateway("many")
    (key,) = few.keys(["t"])
    secrets = many.keys(names, count // tenants)
    file = bench.folder / "keys"
    file.write_text("".join(f"{one}\n" for one in secrets))
    found: dict[str, Any] = {"keys": len(secrets), "tenants": tenants}
    try:
        for name, gateway, one in (("few", few, key), ("many", many, secrets[0])):
            times = []
            for _ in range(STARTS):
                gateway.stop()
                times.append(bench.started(gateway, one))
            time.sleep(1.0)
            found[name] = {"ready_s": round(statistics.median(times), 2), "idle_mb": memory_mb(gateway.pid)}
        # The first request of an account reads what the account has spent from the usage records.
        once = ("--keys", str(file), "--first", str(len(secrets)), "--conc", str(FIRST_CONC))
        first = bench.load(many, *once, "--warmup", "0", "--duration", str(FIRST_S))
        met = secrets[: int(first["all_ok"]) - FIRST_CONC]
        file.write_text("".join(f"{one}\n" for one in met))
        found["first"] = {
            "keys": len(met),
            "cpu_us": round(first["cpu_us"], 1),
            "p50_ms": first["p50_ms"],
            "p99_ms": first["p99_ms"],
            "errors": first["errors"],
        }
        phases = {
            ("few", "one_key_cpu_us"): (few, "--key", key),
            ("many", "one_key_cpu_us"): (many, "--key", secrets[0]),
            ("many", "all_keys_cpu_us"): (many, "--keys", str(file)),
        }
        costs: dict[tuple[str, str], list[float]] = {place: [] for place in phases}
        for _ in range(rounds):
            for place, (gateway, *words) in phases.items():
                costs[place].append(bench.load(gateway, *words, *USUAL)["cpu_us"])
                time.sleep(0.3)
        for (name, what), values in costs.items():
            found[name][what] = round(statistics.median(values), 1)
        found["many"]["loaded_mb"] = memory_mb(many.pid)
        found["few"]["loaded_mb"] = memory_mb(few.pid)
    finally:
        few.stop()
        many.stop()
    return found


def workers(bench: Bench, rounds: int) -> dict[str, Any]:
    """Each free to run on both cores, as the engine and the load are."""
    subprocess.run(["taskset", "-acp", "0,1", str(bench.engine.pid)], check=True, capture_output=True)
    gateways = {count: bench.gateway(f"workers-{count}", count) for count in (1, 2)}
    secrets = {count: gateway.keys(["t"])[0] for count, gateway in gateways.items()}
    results: dict[int, list[dict[str, float]]] = {count: [] for count in gateways}
    found: dict[str, Any] = {}
    try:
        for count, gateway in gateways.items():
            bench.started(gateway, secrets[count], "0,1")
        time.sleep(1.0)
        for _ in range(rounds):
            for count, gateway in gateways.items():
                results[count].append(bench.load(gateway, "--key", secrets[count], *USUAL, core="0,1"))
                time.sleep(0.3)
        for count, gateway in gateways.items():
            found[str(count)] = {
                "cpu_us": round(statistics.median(one["cpu_us"] for one in results[count]), 1),
                "rps": round(statistics.median(one["rps"] for one in results[count])),
                "memory_mb": memory_mb(gateway.pid),
            }
    finally:
        for gateway in gateways.values():
            gateway.stop()
    return found


def measure(count: int, tenants: int, rounds: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="gwscale-"))
    bench = Bench(folder)
    load = [os.getloadavg()[0]]
    try:
        found = {"keys": keys(bench, count, tenants, rounds), "workers": workers(bench, rounds)}
        return {**found, "load": [*load, os.getloadavg()[0]]}
    finally:
        bench.close()
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(measure(given.keys, given.tenants, given.rounds), indent=1))


if __name__ == "__main__":
    main()

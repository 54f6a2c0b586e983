"""Useful answers per second when more is asked than the engine can do.

    python -m bench.gateway.overload [--seconds 12]

A real gateway before an engine of SLOTS slots (gwbench mock --slots: who comes when all are taken waits there). Clients
of several tenants ask in three classes of priority at random moments, whatever became of those before, and leave after
DEADLINE_S: what comes later is of no use. Offered are multiples of what the engine can do; goodput is what was answered
in time, counted once the queues are as full as they get. It must stay at 90 % of its peak at three times the load.
Three engines: a quick one, a slow one, whose full queue is longer than the clients' patience, and the slow one with an
endpoint that knows it (`wait_s`). Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archwright.policy.admission import Priority
from archwright.serving.settings.config import EndpointSpec, WeightedTarget

from .client import Client, Lost, chat
from .processes import OwnGateway, answered, build, free_port, pool

SLOTS = 8
DEADLINE_S = 2.0
SHARES: dict[Priority, float] = {"interactive": 0.2, "normal": 0.4, "batch": 0.4}
TENANTS = ("north", "south", "east", "west")
TIMES = (1.0, 1.2, 2.0, 3.0, 5.0)
FILL_S, DRAIN_S = 4.0, 3.0
# Name: milliseconds one request holds a slot, and how long an endpoint lets one wait.
ENGINES: dict[str, tuple[int, float | None]] = {
    "100 ms": (100, None),
    "500 ms": (500, None),
    "500 ms, wait_s 1.4": (500, 1.4),
}
WANTED = 0.9


@dataclass
class Outcome:
    asked: Counter[str] = field(default_factory=Counter)
    useful: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    shed_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    without_retry: int = 0
    in_time: int = 0  # within the time that counts

    def line(self, offered_rps: float, seconds: float) -> dict[str, Any]:
        return {
            "offered_rps": round(offered_rps, 1),
            "asked": sum(self.asked.values()),
            "goodput_rps": round(self.in_time / seconds, 1),
            "latency_p50_s": _quantile(self.latency_s, 0.5),
            "latency_p99_s": _quantile(self.latency_s, 0.99),
            "useful_share": {one: round(self.useful[one] / max(1, self.asked[one]), 3) for one in SHARES},
            "late": sum(self.late.values()),
            "shed": sum(self.shed.values()),
            "shed_p50_ms": 1000 * _quantile(self.shed_s, 0.5),
            "shed_p90_ms": 1000 * _quantile(self.shed_s, 0.9),
            "shed_p99_ms": 1000 * _quantile(self.shed_s, 0.99),
            "without_retry_after": self.without_retry,
            "statuses": dict(self.statuses),
        }


def _quantile(found: list[float], q: float) -> float:
    return round(sorted(found)[int(q * (len(found) - 1))], 4) if found else 0.0


class Load:
    def __init__(self, port: int, keys: list[str]) -> None:
        self._client = Client(port)
        self._keys = keys
        self._chance = random.Random(5)
        self._counts = 0.0, 0.0

    async def run(self, rate_rps: float, seconds: float) -> Outcome:
        found = Outcome()
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            self._counts = due + FILL_S, due + FILL_S + seconds
            until = self._counts[1]
            while due < until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                (priority,) = self._chance.choices(list(SHARES), list(SHARES.values()))
                group.create_task(self._ask(priority, found))
                due += self._chance.expovariate(rate_rps)
        self._client.close()
        return found

    async def _ask(self, priority: Priority, found: Outcome) -> None:
        begun = time.monotonic()
        found.asked[priority] += 1
        body = chat(priority, f"Number {self._chance.getrandbits(40)}", 8)
        try:
            async with asyncio.timeout(DEADLINE_S):
                reply = await self._client.ask(body, self._chance.choice(self._keys))
        except TimeoutError:
            found.late[priority] += 1
            return
        except Lost:
            found.statuses["lost"] += 1
            return
        now = time.monotonic()
        took = now - begun
        found.statuses[str(reply.status)] += 1
        if reply.whole:
            found.useful[priority] += 1
            found.in_time += self._counts[0] <= now < self._counts[1]
            found.latency_s.append(took)
            return
        found.shed[priority] += 1
        found.shed_s.append(took)
        found.without_retry += "retry-after" not in reply.headers


def of(folder: Path, program: str, hold_ms: int, wait_s: float | None, seconds: float) -> dict[str, Any]:
    port = free_port()
    engine = subprocess.Popen([program, "mock", "--port", str(port), "--slots", str(SLOTS)])
    endpoints = tuple(
        EndpointSpec(
            model=name,
            workload=name,
            targets=(WeightedTarget(pool="p"),),
            default_max_tokens=8,
            priority=name,
            wait_s=wait_s,
        )
        for name in SHARES
    )
    gateway = OwnGateway(folder, (pool("p", port, f"mock-{hold_ms}", SLOTS),), endpoints)
    keys = gateway.keys(TENANTS)
    capacity_rps = SLOTS * 1000 / hold_ms
    lines = {}
    try:
        gateway.start()
        answered(gateway.port, keys[0], "normal")
        load = Load(gateway.port, keys)
        for times in TIMES:
            lines[str(times)] = asyncio.run(load.run(times * capacity_rps, seconds)).line(times * capacity_rps, seconds)
            time.sleep(DRAIN_S)
    finally:
        gateway.stop()
        engine.kill()
        engine.wait()
    peak = max(line["goodput_rps"] for line in lines.values())
    shares = {times: round(line["goodput_rps"] / peak, 3) for times, line in lines.items()}
    return {
        "capacity_rps": capacity_rps,
        "peak_rps": peak,
        "of_peak": shares,
        "holds": shares["3.0"] >= WANTED,
        "at": lines,
    }


def measure(seconds: float) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="gwoverload-"))
    program = build(folder)
    load = [os.getloadavg()[0]]
    try:
        found: dict[str, Any] = {
            name: of(folder / f"home-{number}", program, *engine, seconds)
            for number, (name, engine) in enumerate(ENGINES.items())
        }
        found["holds"] = all(one["holds"] for one in found.values())
        return {**found, "load": [*load, os.getloadavg()[0]], "deadline_s": DEADLINE_S, "slots": SLOTS}
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0, help="at each load")
    given = parser.parse_args()
    print(json.dumps(measure(given.seconds), indent=1))


if __name__ == "__main__":
    main()

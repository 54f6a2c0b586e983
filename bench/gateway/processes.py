"""Measured processes: their CPU time and memory, and our gateway in its own home.

Design: no part of the package is replaced. The master starts as the supervisor starts it, with workers, store, records,
cache and limits in a new home. CPU time and memory (PSS) are sums over all processes of a gateway.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from archwright.access.accounts import open_accounts_table
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.home import Home
from archwright.policy.usage_limits import UsageLimits
from archwright.serving.settings.config import EndpointSpec, EnginePoolSpec, GatewayConfig, WeightedTarget
from archwright.store import Store

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
# Looked at in every request, and never what ends one.
WIDE = UsageLimits(rpm=10**9, tpm=10**9, budget_usd=1e8)
PRICE_IN_USD, PRICE_OUT_USD = 0.15e-6, 0.60e-6
CHAT = b'{"model":"%b","messages":[{"role":"user","content":"x"}],"max_tokens":1}'


def build(folder: Path) -> str:
    """The mock engine and load generator, compiled."""
    program = folder / "gwbench"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "gwbench.c")], check=True)
    return str(program)


def pinned(core: str, *command: str) -> list[str]:
    return ["taskset", "-c", core, *command]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        with suppress(OSError):
            for place in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (place / "children").read_text().split())
            found.append(one)
    return found


def cpu_s(pid: int) -> float:
    ticks = 0
    for one in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def held_mb(pid: int, name: str = "Pss") -> float:
    """Memory of one process in MB, from a line of smaps_rollup: Rss, Pss (pages shared by n count 1/n), Anonymous."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def memory_mb(pid: int) -> float:
    return round(sum(held_mb(one) for one in family(pid)), 1)


def answered(port: int, key: str, model: str, limit_s: float = 30.0, path: str = "/v1") -> None:
    """Return at the first chat request that is answered with 200."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    url = f"http://127.0.0.1:{port}{path}/chat/completions"
    end = time.monotonic() + limit_s
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, CHAT % model.encode(), headers), timeout=5
            ) as reply:
                reply.read()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def pool(name: str, engine_port: int, engine_model: str = "", slots: int = 400) -> EnginePoolSpec:
    return EnginePoolSpec(
        name=name,
        addresses=(f"http://127.0.0.1:{engine_port}/v1",),
        model=name,
        engine_model=engine_model,
        slots=slots,
        context_tokens=100_000,
        price_in_usd=PRICE_IN_USD,
        price_out_usd=PRICE_OUT_USD,
    )


def endpoint(model: str) -> EndpointSpec:
    """Everything a request may meet is on: the exact cache keeps what was asked with temperature 0 or a seed."""
    return EndpointSpec(
        model=model, workload=model, targets=(WeightedTarget(pool=model),), default_max_tokens=16, cache="deterministic"
    )


class OwnGateway:
    """Our gateway in `home`, not started yet; `core`: where all its processes run."""

    def __init__(
        self,
        folder: Path,
        pools: tuple[EnginePoolSpec, ...],
        endpoints: tuple[EndpointSpec, ...],
        workers: int = 1,
    ) -> None:
        self.home = Home(folder)
        self.config = GatewayConfig(pools=pools, endpoints=endpoints, port=free_port(), workers=workers)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.config.port

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        return family(self.pid)[1:]

    def keys(
        self, tenants: Iterable[str], each: int = 1, limits: UsageLimits = WIDE, whole: UsageLimits = WIDE
    ) -> list[str]:
        """New keys, `each` of every tenant: with `limits` of their own and `whole` of their tenant."""
        with closing(Store(self.home.store_url)) as store, closing(open_accounts_table(self.home)) as slate:
            keys = KeyStore(store, load_pepper(self.home, store), table=slate)
            found = []
            for tenant in tenants:
                found += [keys.create(tenant, limits=limits)[0] for _ in range(each)]
                keys.set_limits("tenant", tenant, "", limits=whole)
            return found

    def write(self) -> Path:
        file = self.home.config("gateway")
        file.write_bytes(msgspec.json.encode(self.config))
        return file

    def start(self, core: str = "") -> None:
        command = [sys.executable, "-P", "-m", "archwright.serving", str(self.home.root), str(self.write())]
        with self.home.log("gateway").open("ab") as log:
            self.process = subprocess.Popen(
                pinned(core, *command) if core else command, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None

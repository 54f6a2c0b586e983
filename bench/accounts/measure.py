"""Measure the CPU time of limits, keys, the shared table and the cache, each in one process.

    python bench/accounts/measure.py [--keys 10000] [--tenants 1000]

Prints one JSON object. Times are microseconds of CPU, the best of a few rounds (neighbours only add time). One and two
processes use the same accounts, at full speed and with the other work of a request in between: the cost of sharing.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from archwright.access.accounts import Accounts, open_accounts_table
from archwright.access.api_keys import KeyStore
from archwright.access.reservations import LimitDenial
from archwright.access.signed_rows import append_signed
from archwright.access.tables import KEYS, LIMITS, TENANTS, KeyRecord, LimitRow, Tenant
from archwright.home import Home
from archwright.policy.cache_key import CacheKeyParts
from archwright.policy.usage_limits import UsageLimits
from archwright.serving.admission.response_cache import CachedResponse, ResponseCache
from archwright.store import Store

WIDE = UsageLimits(rpm=10**8, tpm=10**9, budget_usd=1e8)
PEPPER = b"p" * 32
ASK = (2000, 0.01)
TOGETHER_S = 3.0


def cpu_us(act: Callable[[], object], count: int = 20_000, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(count):
            act()
        best = min(best, time.process_time() - begin)
    return round(best / count * 1e6, 2)


def lmdb_modes() -> dict[str, float]:
    """Two reads and two writes in one transaction, by how LMDB writes."""
    found = {}
    for name, options in {
        "nosync, writemap": {"sync": False, "writemap": True},
        "nosync": {"sync": False},
        "metasync off, sync on": {"metasync": False},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            opened: Any = lmdb.open(folder, map_size=1 << 26, **options)

            def both(opened: Any = opened) -> None:
                with opened.begin(write=True) as transaction:
                    for key in (b"a", b"b"):
                        transaction.get(key)
                        transaction.put(key, b"x" * 60)

            found[name] = cpu_us(both, count=20_000 if "nosync" in name else 500, rounds=3)
            opened.close()
    return found


def worker(root: str, secret: str, other_us: float, answer: Any) -> None:
    """Reserves and settles for a while, with so much other work between, as a request has."""
    home = Home(root)
    slate = open_accounts_table(home)
    keys = KeyStore(Store(home.store_url), PEPPER, table=slate)
    accounts = Accounts(slate, keys, lambda _scope, _since: 0.0)
    principal = keys.identify(secret)
    assert principal is not None
    walls, cpu, begin = [], time.process_time(), time.monotonic()
    while (now := time.monotonic()) - begin < TOGETHER_S:
        taken = accounts.reserve(principal, ASK)
        assert not isinstance(taken, LimitDenial)
        accounts.settle(taken, 500, 0.002)
        walls.append(time.monotonic() - now)
        until = time.process_time() + other_us / 1e6
        while other_us and time.process_time() < until:
            pass
    answer.put((walls, time.process_time() - cpu))


def together(home: Home, secret: str, count: int, other_us: float) -> dict[str, object]:
    context = multiprocessing.get_context("spawn")
    answer: Any = context.Queue()
    started = [context.Process(target=worker, args=(str(home.root), secret, other_us, answer)) for _ in range(count)]
    for process in started:
        process.start()
    found = [answer.get(timeout=60) for _ in started]
    for process in started:
        process.join()
    walls = sorted(wall for one, _ in found for wall in one)
    return {
        "cpu_us": round(sum(cpu for _, cpu in found) / len(walls) * 1e6 - other_us, 2),
        "wall_us, p50 and p99": [round(walls[int(len(walls) * share)] * 1e6, 1) for share in (0.5, 0.99)],
        "per_s": round(len(walls) / TOGETHER_S),
    }


def limits(home: Home) -> dict[str, object]:
    store, slate = Store(home.store_url), open_accounts_table(home)
    keys = KeyStore(store, PEPPER, table=slate)
    keys.create_tenant("wide")
    keys.create_tenant("free")
    keys.set_limits("tenant", "wide", "", limits=WIDE)
    limited, _ = keys.create("wide", limits=WIDE)
    free, _ = keys.create("free")
    accounts = Accounts(slate, keys, lambda _scope, _since: 0.0)
    found: dict[str, object] = {}
    for name, secret in (("key and tenant limited", limited), ("no limits", free)):
        principal = keys.identify(secret)
        assert principal is not None

        def both(principal: Any = principal) -> None:
            taken = accounts.reserve(principal, ASK)
            assert not isinstance(taken, LimitDenial)
            accounts.settle(taken, 500, 0.002)

        found[f"reserve + settle, {name}"] = cpu_us(both)
        held = accounts.reserve(principal, ASK)
        assert not isinstance(held, LimitDenial)
        found[f"still, {name}"] = cpu_us(lambda held=held: accounts.may_continue(held))  # type: ignore[misc]
    found["identify"] = cpu_us(lambda: keys.identify(limited))
    slate.close()
    store.close()
    for count in (1, 2):
        for other_us in (0.0, 60.0):
            name = f"{count} process{'es' * (count - 1)}, {other_us:.0f} us of other work a request"
            found[name] = together(home, limited, count, other_us)
    return found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many_keys(home: Home, keys: int, tenants: int) -> dict[str, object]:
    """Resident memory of the Keys object alone: all keys limited, half with a user, in three kinds of limits."""
    store = Store(home.store_url)
    store.append(TENANTS, [Tenant(name=f"t{number}", created_at=0.0) for number in range(tenants)])
    append_signed(
        store,
        PEPPER,
        KEYS,
        *[
            KeyRecord(
                id=f"key-{number:016x}",
                tenant=f"t{number % tenants}",
                role="member",
                name="",
                prefix="aw_",
                digest=os.urandom(32).hex(),
                created_at=0.0,
                user=f"u{number // 2 % 5000}@example.org" if number % 2 else "",
                rpm=60 * (1 + number % 3),
                budget_usd=10.0,
            )
            for number in range(keys)
        ],
    )
    limits = [LimitRow(scope=f"tenant:t{number}", tpm=10**6, at=0.0) for number in range(tenants)]
    append_signed(store, PEPPER, LIMITS, *limits)
    store.close()
    gc.collect()
    first = KeyStore(Store("sqlite://"), PEPPER)
    first.refresh_version()  # the store's own memory, and what it imports, is not that of the keys
    before = resident_bytes()
    known, begin = KeyStore(Store(home.store_url), PEPPER), time.process_time()
    known.refresh_version()
    return {
        "keys": len(known._live),
        "first read, ms of CPU": round((time.process_time() - begin) * 1000),
        "resident MB": round((resident_bytes() - before) / 1e6, 1),
    }


def cache(home: Home) -> dict[str, object]:
    made = ResponseCache(home, PEPPER)
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 900}], "temperature": 0, "user": "ann"}
    asked = CacheKeyParts("chat", "m@v1", body)
    reply = CachedResponse(b"x" * 1200, 300, 200, 0.01, "m@v1")
    key = made.cache_key("t1", asked, "deterministic")
    assert key is not None
    made.put(key, reply)

    def cold() -> None:
        made._front.clear()
        made._front_bytes = 0
        assert made.get(key) is not None

    found: dict[str, object] = {
        "key of 1 kB": cpu_us(lambda: made.cache_key("t1", asked, "deterministic")),
        "get, in the process": cpu_us(lambda: made.get(key)),
        "get, shared": cpu_us(cold),
        "get, miss": cpu_us(lambda: made.get(b"0" * 16)),
    }
    longest, begin, count = 0.0, time.process_time(), 60_000
    for number in range(count):
        before = time.process_time()
        made.put(number.to_bytes(16, "little"), reply)
        longest = max(longest, time.process_time() - before)
    found["put of 1.2 kB"] = round((time.process_time() - begin) / count * 1e6, 2)
    found["longest put (a generation dropped), ms"] = round(longest * 1000, 2)
    found["refused"] = made.refused
    made.close()
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keys", type=int, default=10_000)
    options.add_argument("--tenants", type=int, default=1_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "memory": many_keys(Home(Path(folder) / "many"), chosen.keys, chosen.tenants),
            "lmdb": lmdb_modes(),
            "limits": limits(Home(Path(folder) / "limits")),
            "cache": cache(Home(Path(folder) / "cache")),
        }
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

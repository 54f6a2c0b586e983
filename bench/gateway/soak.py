"""The gateway for an hour with clients as they are: does it grow, and is the bill what was answered?

    python -m bench.gateway.soak --minutes 60 --rate 60 --out DIR

A master with two workers before a mock engine. Clients of several tenants ask plainly and in streams, leave streams
early, do not wait for an answer, vanish in the middle of a body, send bad JSON, wrong keys, bodies too large and
nothing at all, and meet the cache; the engine is killed and comes back all the time. In the first two fifths and the
last twentieth of the time workers are killed (-9) and the gateway is reloaded (SIGHUP) in turn; between, they are left
alone, since a worker that is replaced all the time shows no leak. Writes DIR/soak.csv (every process, every few
seconds) and DIR/soak.json.

Decides that it holds when, from half of the time on, the linear trend of anonymous memory rises by less than RISE_MB
for each process and that of descriptors by less than RISE_FILES; when every request a client saw answered has one
record with its tokens and its price, none has two, and a tenant's usage is the sum of its records; and when no reply
was one that must not be. Records no client knows of are at most as many as replies of which not even the head came.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.served import RequestRecord
from archwright.monitor.usage import UsageRow, read_usage
from archwright.monitor.wal.compaction import read_served
from archwright.policy.usage_limits import UsageLimits
from archwright.store import Store

from .client import PIECE, Client, Lost, Reply, chat, head
from .processes import OwnGateway, build, endpoint, family, free_port, held_mb, pool

SAMPLE_S = 5.0
RISE_MB, RISE_FILES = 3.0, 10.0
QUIET = (0.4, 0.95)  # of the time, no worker is replaced between these
JUDGED_FROM = 0.5
ENGINE_EVERY_S, ENGINE_AWAY_S = 29.0, 3.0
REPLACED_EVERY_S = 11.0
SETTLE_S = 14.0  # longer than a silent connection may live
TENANTS = ("north", "south", "east", "west", "poor", "slow")
KEYS = 3
POOR_USD = 0.002
SLOW_RPM = 60
MODELS = {"short": "mock-5", "steady": "mock-5-10", "long": "mock-20-50"}
LARGE = 33 * 1024 * 1024  # more than a chat with images may have
# Kinds of requests, with their share in percent.
SHARES = {
    "plain": 40,
    "stream": 16,
    "long stream": 4,
    "hit": 12,
    "cancelled": 10,
    "impatient": 4,
    "vanished": 4,
    "bad json": 3,
    "wrong key": 3,
    "too large": 2,
    "idle": 2,
}
# Else 200, and 429 and 5xx where the engine is away, a worker died or a limit was reached. 500 never.
EXPECTED = {"bad json": {400, 429}, "wrong key": {401}, "too large": {413, 429}}
TOLERATED = {200, 429, 502, 503, 504}


class Seen(NamedTuple):
    """A client's view of a request.

    `ended`: ok (complete), cut (the client left, or the reply broke off), or the status of a refusal.
    """

    tenant: str
    ended: str
    input_tokens: int = 0
    output_tokens: int = 0
    hit: bool = False
    nano_usd: int = 0
    pieces: int = 0


@dataclass
class Counted:
    """By request id what clients saw; `nameless`: replies of which not even the head came, by tenant."""

    seen: dict[str, Seen] = field(default_factory=dict)
    nameless: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    exposed: int = 0  # under way when a worker was killed
    events: list[tuple[float, str]] = field(default_factory=list)


class Crowd:
    """The clients."""

    def __init__(self, gateway: OwnGateway, keys: dict[str, list[str]], counted: Counted) -> None:
        self.client = Client(gateway.port)
        self._keys = keys
        self._counted = counted
        self._chance = random.Random(7)

    async def come(self, rate: float, until: float) -> None:
        """Requests at random moments, whatever becomes of those before."""
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            while due < until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                (what,) = self._chance.choices(list(SHARES), list(SHARES.values()))
                group.create_task(self._do(what))
                due += self._chance.expovariate(rate)
        self.client.close()

    async def _do(self, what: str) -> None:
        self._counted.did[what] += 1
        tenant = self._chance.choice(TENANTS)
        key = self._chance.choice(self._keys[tenant])
        try:
            if what in ("vanished", "idle", "too large"):
                await self._raw(what, key)
            elif what in ("bad json", "wrong key"):
                body = b'{"model": "short", "messages": [' if what == "bad json" else chat("short", "Go on.", 4)
                reply = await self.client.ask(body, key if what == "bad json" else "aw_" + key[:3:-1])
                self._note(what, reply.status)
            else:
                await self._ask(what, tenant, key)
        except TimeoutError:
            self._counted.nameless[tenant] += 1
        except Lost as lost:
            if lost.id:
                self._counted.seen[lost.id] = Seen(tenant, "cut")
            elif what not in ("vanished", "idle", "too large"):
                self._counted.nameless[tenant] += 1
            self._counted.statuses[f"{what} lost"] += 1

    async def _ask(self, what: str, tenant: str, key: str) -> None:
        number = self._chance.getrandbits(48)
        asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        leave_after = None
        if what in ("plain", "impatient"):
            body = chat("short", f"Number {number}: " + "word " * self._chance.randrange(200), 1 + number % 40)
        elif what == "hit":
            asked = asked if number % 2 else {}
            body = chat("short", f"Often asked {number % 20}", 12, temperature=0, **asked)
        elif what == "long stream":
            body = chat("long", f"Number {number}", 60, **asked)
        else:
            body = chat("steady", f"Number {number}", 5 + number % 30, **asked)
            leave_after = number % 5 if what == "cancelled" else None
        async with asyncio.timeout(number % 30 / 1000 if what == "impatient" else None):
            reply = await self.client.ask(body, key, leave_after)
        self._note(what, reply.status)
        self._counted.seen[reply.id] = _seen(tenant, reply)

    async def _raw(self, what: str, key: str) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
        except OSError as error:
            raise Lost from error
        try:
            if what == "idle":
                await asyncio.sleep(self._chance.uniform(0.5, 12.0))
                return
            length = LARGE if what == "too large" else 3000
            writer.write(head(key, length) + b'{"messages": ' + b" " * 1000)
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            if what == "too large":
                said = await reader.readuntil(b"\r\n")
                self._note(what, int(said.split()[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Lost from error
        finally:
            writer.transport.abort()

    def _note(self, what: str, status: int) -> None:
        self._counted.statuses[f"{what} {status}"] += 1
        if status not in EXPECTED.get(what, TOLERATED):
            self._counted.wrong.append(f"{what}: {status}")


def _seen(tenant: str, reply: Reply) -> Seen:
    if reply.status != 200:
        return Seen(tenant, str(reply.status))
    if not reply.whole:
        return Seen(tenant, "cut", pieces=reply.body.count(PIECE))
    hit = reply.headers["x-archwright-cache"] == "hit"
    used = reply.usage
    read, said = (0, 0) if hit else (int(used["prompt_tokens"]), int(used["completion_tokens"]))
    # A hit costs nothing; what its stream says of usage is the first answer's.
    usd = float(reply.headers.get("x-archwright-cost-usd", used.get("cost_usd", 0.0)))
    return Seen(tenant, "ok", read, said, hit=hit, nano_usd=round(usd * 1e9))


class Stage:
    """The processes, and what befalls them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = build(folder)
        self._port = free_port()
        pools = tuple(pool(name, self._port, engine, slots=200) for name, engine in MODELS.items())
        self.gateway = OwnGateway(folder / "home", pools, tuple(map(endpoint, MODELS)), workers=2)
        self.engine: subprocess.Popen[bytes] | None = None
        self._chance = random.Random(11)

    def keys(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tenant in TENANTS:
            limits = UsageLimits(rpm=100_000, tpm=100_000_000, budget_usd=1000.0, period="month")
            whole = UsageLimits(budget_usd=POOR_USD) if tenant == "poor" else limits
            if tenant == "slow":
                limits = UsageLimits(rpm=SLOW_RPM, budget_usd=1000.0, period="day")
            found[tenant] = self.gateway.keys([tenant], KEYS, limits, whole)
        return found

    def start_engine(self) -> None:
        self.engine = subprocess.Popen([self._program, "mock", "--port", str(self._port)])

    def kill_engine(self) -> None:
        if self.engine is not None:
            self.engine.kill()
            self.engine.wait()

    async def engine_dies(self, counted: Counted, begun: float, until: float) -> None:
        while time.monotonic() + ENGINE_EVERY_S < until:
            await asyncio.sleep(ENGINE_EVERY_S - ENGINE_AWAY_S)
            counted.events.append((time.monotonic() - begun, "engine killed"))
            self.kill_engine()
            await asyncio.sleep(ENGINE_AWAY_S)
            self.start_engine()

    async def replaced(self, counted: Counted, crowd: Crowd, begun: float, until: float) -> None:
        """Workers die, and are replaced, in turn; never in the quiet time."""
        quiet = [begun + part * (until - begun) for part in QUIET]
        due, kill = begun + REPLACED_EVERY_S, True
        while due < until - 2.0:
            await asyncio.sleep(due - time.monotonic())
            counted.events.append((due - begun, "worker killed" if kill else "reload"))
            if kill:
                counted.exposed += crowd.client.asked
                with suppress(ProcessLookupError):
                    os.kill(self._chance.choice(self.gateway.workers), signal.SIGKILL)
            else:
                os.kill(self.gateway.pid, signal.SIGHUP)
            kill = not kill
            due += REPLACED_EVERY_S
            if quiet[0] < due < quiet[1]:
                due = quiet[1]

    def stop(self) -> None:
        self.gateway.stop()
        self.kill_engine()


class Sample(NamedTuple):
    at_s: float
    role: str
    pid: int
    rss_mb: float
    pss_mb: float
    anonymous_mb: float
    files: int
    threads: int
    home_mb: float


def sampled(stage: Stage, at_s: float) -> list[Sample]:
    found = []
    home_mb = _size_mb(stage.gateway.home.root)
    for pid in family(stage.gateway.pid):
        role = "master" if pid == stage.gateway.pid else "worker"
        with suppress(OSError):
            files, threads = len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
            rss, pss, anonymous = (round(held_mb(pid, name), 2) for name in ("Rss", "Pss", "Anonymous"))
            found.append(
                Sample(round(at_s, 1), role, pid, rss, pss, anonymous, files, threads, round(home_mb, 2)),
            )
    return found


def _size_mb(folder: Path) -> float:
    found = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found += os.stat(os.path.join(place, name), follow_symlinks=False).st_blocks * 512
    return found / 2**20


def rise(points: list[tuple[float, float]]) -> float:
    """By how much the line of least squares rises from the first point to the last."""
    if len(points) < 3:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slope * (points[-1][0] - points[0][0])


def grown(samples: list[Sample], whole_s: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return figures of each process in the judged time, and their faults."""
    judged = [one for one in samples if JUDGED_FROM * whole_s <= one.at_s <= QUIET[1] * whole_s]
    lines, faults = [], []
    for pid in sorted({one.pid for one in judged}):
        own = [one for one in judged if one.pid == pid]
        line: dict[str, Any] = {"role": own[0].role, "pid": pid, "samples": len(own)}
        for name in ("anonymous_mb", "pss_mb", "rss_mb", "files", "threads"):
            values = [(one.at_s, float(getattr(one, name))) for one in own]
            line[name] = {"first": values[0][1], "last": values[-1][1], "rise": round(rise(values), 2)}
        lines.append(line)
        if line["anonymous_mb"]["rise"] > RISE_MB:
            faults.append(f"{own[0].role} {pid}: anonymous memory rises by {line['anonymous_mb']['rise']} MB")
        if line["files"]["rise"] > RISE_FILES or line["threads"]["rise"] > 1:
            faults.append(f"{own[0].role} {pid}: descriptors or threads rise: {line['files']}, {line['threads']}")
    if sum(line["role"] == "worker" for line in lines) != 2:
        faults.append("not the same two workers in the quiet time")
    return lines, faults


def billed(stage: Stage, counted: Counted) -> tuple[dict[str, Any], list[str]]:
    """Compare the usage records with what clients saw."""
    home = stage.gateway.home
    with closing(Store(home.store_url)) as store:
        usage = {one.tenant: one for one in read_usage(store, home, tenant=None, by="tenant")}
        records = list(read_served(store, home))
    faults: list[str] = []
    by_id = {one.request_id: one for one in records}
    if len(by_id) < len(records):
        faults.append(f"{len(records) - len(by_id)} requests are written twice")
    faults += _answered_is_written(counted, by_id)
    cut = [name for name, one in counted.seen.items() if one.ended == "cut"]
    missing = [name for name in cut if name not in by_id]
    if len(missing) > counted.exposed:
        faults.append(f"{len(missing)} replies were cut off and have no record: {missing[:3]}")
    lines = {}
    for tenant in TENANTS:
        own = [one for one in records if one.tenant == tenant]
        acknowledged = [one for one in counted.seen.values() if one.tenant == tenant and one.ended == "ok"]
        unknown = [one for one in own if one.request_id not in counted.seen]
        # A client that vanished in its body, or whose connection broke before the head, knows no id.
        if len(unknown) > counted.nameless[tenant]:
            faults.append(f"{tenant}: {len(unknown)} records nobody asked for, {counted.nameless[tenant]} lost replies")
        faults += _sums(tenant, usage[tenant], own)
        lines[tenant] = {
            "acknowledged": _sum_seen(acknowledged),
            "of them recorded": _sum_records([one for one in own if _ended(counted, one) == "ok"]),
            "other records": _sum_records([one for one in own if _ended(counted, one) != "ok"]),
            "usage": [usage[tenant].requests, usage[tenant].input_tokens, usage[tenant].output_tokens],
            "unknown to clients": len(unknown),
            "cost_usd": usage[tenant].cost_usd,
        }
        if lines[tenant]["acknowledged"] != lines[tenant]["of them recorded"]:
            faults.append(f"{tenant}: {lines[tenant]}")
    if usage["poor"].cost_usd > POOR_USD + 1e-9:
        faults.append(f"a budget of {POOR_USD} USD was overdrawn: {usage['poor'].cost_usd}")
    found = {"records": len(records), "cut off": len(cut), "cut off without record": len(missing)}
    return {**found, "under way at kills": counted.exposed, "tenants": lines}, faults


def _answered_is_written(counted: Counted, by_id: dict[str, RequestRecord]) -> list[str]:
    faults = []
    for name, seen in counted.seen.items():
        record = by_id.get(name)
        if seen.ended == "ok":
            told = (seen.tenant, "ok", seen.input_tokens, seen.output_tokens, seen.hit, seen.nano_usd)
            if record is None:
                faults.append(f"answered and not written: {name} {seen}")
            elif told != _as_told(record):
                faults.append(f"written otherwise than answered: {seen} {record}")
        elif record is not None and record.output_tokens < seen.pieces:
            faults.append(f"fewer tokens written than delivered: {seen} {record}")
    return faults[:20]


def _as_told(record: RequestRecord) -> tuple[str, str, int, int, bool, int]:
    nano_usd = round((record.cost_usd or 0.0) * 1e9)
    return record.tenant, record.status, record.input_tokens, record.output_tokens, record.cache == "hit", nano_usd


def _ended(counted: Counted, record: RequestRecord) -> str:
    seen = counted.seen.get(record.request_id)
    return "" if seen is None else seen.ended


def _sum_seen(found: list[Seen]) -> list[int]:
    return [len(found), sum(one.input_tokens for one in found), sum(one.output_tokens for one in found)]


def _sum_records(found: list[RequestRecord]) -> list[int]:
    return [len(found), sum(one.input_tokens for one in found), sum(one.output_tokens for one in found)]


def _sums(tenant: str, usage: UsageRow, own: list[RequestRecord]) -> list[str]:
    told = [usage.requests, usage.input_tokens, usage.output_tokens]
    nano = sum(round((one.cost_usd or 0.0) * 1e9) for one in own)
    if told != _sum_records(own) or round(usage.cost_usd * 1e9) != nano:
        return [f"{tenant}: usage {told} {usage.cost_usd} is not the sum of its records {_sum_records(own)} {nano}"]
    return []


async def _watch(stage: Stage, samples: list[Sample], file: Path, begun: float, until: float) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(Sample._fields)
        while time.monotonic() < until:
            found = await asyncio.to_thread(sampled, stage, time.monotonic() - begun)
            samples += found
            writer.writerows(found)
            opened.flush()
            await asyncio.sleep(SAMPLE_S)


async def _run(stage: Stage, crowd: Crowd, counted: Counted, rate: float, whole_s: float) -> list[Sample]:
    begun = time.monotonic()
    until = begun + whole_s
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.come(rate, until))
        group.create_task(stage.engine_dies(counted, begun, until))
        group.create_task(stage.replaced(counted, crowd, begun, until))
        group.create_task(_watch(stage, samples, stage.folder / "soak.csv", begun, until))
    await asyncio.sleep(SETTLE_S)
    return samples


def soak(folder: Path, minutes: float, rate: float) -> dict[str, Any]:
    """All of it; `faults` of what comes back is empty when it holds."""
    stage, counted = Stage(folder), Counted()
    keys = stage.keys()
    try:
        stage.start_engine()
        stage.gateway.start()
        answer_at = time.monotonic() + 30
        crowd = Crowd(stage.gateway, keys, counted)
        asyncio.run(_up(stage, answer_at))
        before = sampled(stage, 0.0)
        samples = asyncio.run(_run(stage, crowd, counted, rate, minutes * 60))
        after = sampled(stage, minutes * 60)
    finally:
        stage.stop()
    lines, faults = grown(samples, minutes * 60)
    if max(one.files for one in after) > max(one.files for one in before) + RISE_FILES:
        faults.append(f"descriptors stay when all clients are gone: {before} {after}")
    books, more = billed(stage, counted)
    faults += [*more, *(f"a reply that must not be: {one}" for one in sorted(set(counted.wrong)))]
    requests = sum(counted.did.values())
    found = {
        "minutes": minutes,
        "rate_rps": rate,
        "requests": requests,
        "did": dict(counted.did),
        "statuses": dict(sorted(counted.statuses.items())),
        "events": Counter(what for _at, what in counted.events),
        "processes": lines,
        "files before and after": [[one.files for one in part] for part in (before, after)],
        "home_mb": [samples[0].home_mb, samples[-1].home_mb],
        "home_bytes_per_request": round((samples[-1].home_mb - samples[0].home_mb) * 2**20 / requests),
        "books": books,
        "faults": faults,
    }
    (folder / "soak.json").write_text(json.dumps(found, indent=1))
    return found


async def _up(stage: Stage, until: float) -> None:
    while len(stage.gateway.workers) < 2 or b" 200 " not in await _ready(stage.gateway.port):
        if time.monotonic() > until:
            raise TimeoutError(stage.gateway.home.log("gateway").read_text()[-2000:])
        await asyncio.sleep(0.05)


async def _ready(port: int) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    writer.write(b"GET /readyz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
    said = await reader.read()
    writer.transport.abort()
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=60, help="requests a second")
    parser.add_argument("--out", type=Path, help="a folder for the home, soak.csv and soak.json; else a new one")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"writing to {folder}", flush=True)
    found = soak(folder, given.minutes, given.rate)
    print(json.dumps(found, indent=1))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

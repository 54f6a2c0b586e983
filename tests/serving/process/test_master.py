"""Workers that share a port: replaced one for one without a dropped request, started again when they die."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.tools.client_threads import ClientThreads

from archwright.contract.record import replace
from archwright.home import write_atomic
from archwright.monitor.usage import read_usage
from archwright.monitor.wal.compaction import read_served
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.process.config_reload import read_served_revision, served_revision_file

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 2e-6, "slots": 64}
BODY = json.dumps({"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "Go on."}]}).encode()


@pytest.fixture
def two(start: Start) -> Platform:
    platform = start([PRICED], [{"tpot_s": 0.002, "slots": 64}], workers=2)
    platform.until(lambda: len(platform.workers) == 2)
    return platform


class Load(ClientThreads):
    """Clients that keep their connections and send requests until stopped; `failed`: requests without a response."""

    def __init__(self, platform: Platform, clients: int = 8) -> None:
        super().__init__(clients)
        self.done: dict[str, float] = {}
        self._platform = platform

    def _ask(self, number: int) -> None:
        connection = self._platform.connection()
        headers = {"authorization": f"Bearer {self._platform.key}"}
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    self.failed.append(f"status {reply.status}")
                else:
                    cost = reply.headers["x-archwright-cost-usd"]
                    self.done[str(reply.headers["x-request-id"])] = float(str(cost))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
        connection.close()


def reload(platform: Platform) -> None:
    """New workers answer, and the old ones are gone or going."""
    before = set(platform.workers)
    platform.master.send_signal(signal.SIGHUP)
    platform.until(lambda: not before & set(platform.workers))


def test_a_reload_under_load_drops_nothing(two: Platform) -> None:
    with Load(two) as load:
        two.until(partial(_more_than, load, 20))
        for _ in range(3):
            reload(two)
            asked = len(load.done)
            two.until(partial(_more_than, load, asked + 20))
    assert load.failed == [] and len(load.done) > 80
    assert len(two.workers) == 2
    assert two.requests("ok") == len(load.done), "the page sums all workers, those that ended too"


def test_a_stream_goes_on_through_a_reload_and_its_kept_connection_takes_another_request(start: Start) -> None:
    """A client may send its next request as soon as the stream is over, and closing the connection would lose it. The
    connection of a silent client is closed."""
    engine = {"tpot_s": 0.1, "text": "word " * 20, "slots": 4}
    platform = start([{**PRICED, "slots": 4}], [engine], workers=1, limits=ClientLimits(drain_s=4.0))
    headers = {"authorization": f"Bearer {platform.key}"}
    stream = json.dumps({**json.loads(BODY), "max_tokens": 20, "stream": True}).encode()
    with closing(platform.connection()) as asks, closing(platform.connection()) as silent:
        replies = []
        for connection in (asks, silent):
            connection.request("POST", "/v1/chat/completions", stream, headers)
            replies.append(connection.getresponse())
        before = platform.workers
        platform.master.send_signal(signal.SIGHUP)
        platform.until(lambda: len(platform.workers) == 2)
        for reply in replies:
            said = reply.read()
            assert said.count(b'"content":"word') + said.count(b'"content":" word') >= 19 and b"[DONE]" in said
            assert reply.getheader("connection") is None
        time.sleep(0.3)
        sock = asks.sock
        asks.request("POST", "/v1/chat/completions", BODY, headers)
        assert asks.sock is sock, "the same connection"
        reply = asks.getresponse()
        assert (reply.status, reply.getheader("connection")) == (200, "close")
        reply.read()
        assert silent.sock is not None and silent.sock.recv(1) == b""
    platform.until(lambda: not set(before) & set(platform.workers))
    assert platform.in_flight() == 0, "who went left no request on the page"


def test_a_configuration_that_cannot_be_read_leaves_the_workers_as_they_are(two: Platform) -> None:
    two.until(served_revision_file(two.home, "gateway").exists)  # all have begun: who still starts reads the file too
    two.home.config("gateway").write_bytes(b"{")
    before = two.workers
    two.master.send_signal(signal.SIGHUP)
    two.until(lambda: "reload failed" in two.home.log("gateway").read_text())
    assert two.workers == before and two.chat(max_tokens=1).status == 200


def test_a_killed_worker_loses_no_settled_request(two: Platform) -> None:
    with Load(two) as load:
        for _ in range(4):
            two.until(partial(_more_than, load, len(load.done) + 30))
            victim = two.workers[0]
            os.kill(victim, signal.SIGKILL)
            two.until(partial(_replaced, two, victim))
    assert len(load.done) > 100
    with closing(two.store) as store:
        served = list(read_served(store, two.home))
        (line,) = read_usage(store, two.home, tenant="acme", by="tenant")
    found = [one for one in served if one.status == "ok"]
    assert len({one.request_id for one in found}) == len(found), "none is written twice"
    assert set(load.done) <= {one.request_id for one in found}, "each that was answered is written"
    lost = len(found) - len(load.done)
    assert 0 <= lost <= len(load.failed), "written and not answered: at most those that were cut off"
    assert line.cost_usd == pytest.approx(sum(one.cost_usd or 0.0 for one in served))
    assert line.cost_usd >= sum(load.done.values()) - 1e-9


def test_what_a_killed_worker_had_reserved_is_free_again(start: Start) -> None:
    platform = start([PRICED], [{"ttft_s": 30.0}], workers=1)
    platform.until(lambda: len(platform.workers) == 1)
    platform.key = platform.made_key("held", tpm=1000)
    platform.open_chat(max_tokens=200)
    platform.until(lambda: platform.in_flight() == 1)
    refused = platform.chat(max_tokens=200)
    assert refused.status == 429 and refused.error["code"] == "rate_limit_exceeded"
    os.kill(platform.workers[0], signal.SIGKILL)
    platform.until(lambda: platform.get("/healthz", key=None).status == 200)
    again = platform.open_chat(max_tokens=200)
    again.settimeout(1.0)
    with pytest.raises(TimeoutError):  # it is let in, and waits for the engine
        again.recv(100)


def test_the_others_go_on_while_the_system_has_no_room_for_a_new_worker(two: Platform) -> None:
    two.until(served_revision_file(two.home, "gateway").exists)
    master = two.master.pid
    limits = resource.prlimit(master, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{master}/fd"))
    resource.prlimit(master, resource.RLIMIT_NOFILE, (used - 1, limits[1]))
    os.kill(two.workers[0], signal.SIGKILL)
    log = two.home.log("gateway")
    two.until(lambda: "system call failed" in log.read_text())
    assert two.chat(max_tokens=1).status == 200 and len(two.workers) == 1
    resource.prlimit(master, resource.RLIMIT_NOFILE, limits)
    two.until(lambda: len(two.workers) == 2)


def test_a_note_that_cannot_be_written_ends_nobody(two: Platform) -> None:
    note = served_revision_file(two.home, "gateway")
    two.until(note.exists)
    note.unlink()
    (note / "in its place").mkdir(parents=True)
    two.config = replace(two.config, revision=1)
    write_atomic(two.home.config("gateway"), msgspec.json.encode(two.config))
    two.until(lambda: "system call failed" in two.home.log("gateway").read_text())
    assert two.chat(max_tokens=1).status == 200
    (note / "in its place").rmdir()
    note.rmdir()
    two.until(lambda: (found := read_served_revision(two.home)) is not None and found.revision == 1)


def test_workers_serve_without_their_master_until_its_parent_ends_too(two: Platform) -> None:
    workers = two.workers
    two.master.kill()
    two.until(lambda: two.home.log("gateway").read_text().count("master died") == len(workers))
    assert [two.chat(max_tokens=1).status for _ in range(4)] == [200] * 4
    assert two.master.stdin is not None
    two.master.stdin.close()
    two.until(lambda: not any(_lives(pid) for pid in workers))


def test_ids_of_requests_are_not_shared(two: Platform) -> None:
    """Workers are forks of one process and must not share its random numbers."""
    with Load(two, clients=16) as load:
        two.until(lambda: len(load.done) > 600)
    assert len({one[-13:] for one in load.done}) == len(load.done)


def test_memory_and_descriptors_stay_as_they_are_over_reloads(two: Platform) -> None:
    def size() -> tuple[int, int]:
        pid = two.master.pid
        return two.memory_bytes, len(os.listdir(f"/proc/{pid}/fd"))

    reload(two)
    before = size()
    for _ in range(4):
        reload(two)
    after = size()
    assert after[1] == before[1] and after[0] < before[0] + 2_000_000
    assert len(list(two.home.counters.glob("*.counters"))) <= 4


def _more_than(load: Load, count: int) -> bool:
    return len(load.done) > count


def _replaced(platform: Platform, victim: int) -> bool:
    return victim not in platform.workers and len(platform.workers) == 2


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False

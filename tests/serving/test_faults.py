"""Engines die, hang and come back: the gateway answers with JSON errors in time, and ends on a signal."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.tools.checks import WAIT_S

from archwright.engines.engine_config import EngineConfig
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.settings.config import GatewayConfig

from .conftest import endpoint, null_engine, table

if TYPE_CHECKING:
    from .conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket


def rest_of(connection: socket.socket) -> bytes:
    said = b""
    while piece := connection.recv(65536):
        said += piece
        if said.endswith(b"0\r\n\r\n"):
            break
    return said


def check_unavailable(reply: Reply) -> None:
    found = reply.status, reply.error["type"], reply.error["code"]
    assert found == (503, "server_error", "engine_unavailable")
    assert int(reply.headers["retry-after"]) >= 1


def test_a_killed_engine_and_its_return(start: Start) -> None:
    platform = start([{"slots": 2}], [{"slots": 4, "tpot_s": 0.05}])
    streamed = platform.open_chat(max_tokens=4000, stream=True)
    assert b"200 OK" in streamed.recv(4000)
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(platform.chat, max_tokens=4000) for _ in range(3)]
        platform.until(lambda: platform.in_flight() == 4)  # two of them run, two wait for a slot
        platform.until(lambda: platform.engine_metrics()["null:requests_processing"] == 2)
        platform.kill_engine("null")
        tail = rest_of(streamed).decode()
        for future in waiting:
            check_unavailable(future.result(WAIT_S))
    last = [line for line in tail.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in tail
    check_unavailable(platform.chat())
    check_unavailable(platform.chat(stream=True))
    reply = platform.get("/readyz", key=None)
    assert (reply.status, reply.json) == (503, {"ready": False, "pools": {"ready": 0, "total": 1}})
    assert platform.get("/readyz?pools=any", key=None).status == 503
    assert platform.get("/healthz", key=None).status == 200
    platform.start_engine(msgspec.json.decode(platform.home.config("null").read_bytes(), type=EngineConfig))
    assert platform.chat(max_tokens=1).status == 200
    assert platform.get("/readyz", key=None).status == 200


def test_one_pool_without_an_engine_keeps_the_gateway_in_service(start: Start) -> None:
    names = ("one", "two")
    endpoints = [{"pool": one, "model": one, "workload": one, "addresses": (f"unix:{one}",)} for one in names]
    platform = start(endpoints, [{"name": name} for name in names])
    platform.kill_engine("two")
    platform.until(lambda: platform.get("/readyz", key=None).status == 503)
    reply = platform.get("/readyz?pools=any", key=None)
    assert (reply.status, reply.json) == (200, {"ready": True, "pools": {"ready": 1, "total": 2}})


def test_work_is_spread_over_replicas_and_the_other_takes_over(start: Start) -> None:
    both = {"addresses": ("unix:one", "unix:two"), "slots": 4}
    platform = start([both], [{"name": name, "tpot_s": 0.02} for name in ("one", "two")])
    with ThreadPoolExecutor(8) as threads:
        assert all(r.status == 200 for r in threads.map(lambda _: platform.chat(max_tokens=10), range(8)))
    # How many overlap is the scheduler's choice; that both work is the router's.
    shares = [platform.engine_metrics(name)["null:tokens_predicted_total"] for name in ("one", "two")]
    assert sum(shares) == 80 and min(shares) >= 30
    platform.kill_engine("one")
    assert [platform.chat().status for _ in range(5)] == [200] * 5
    assert platform.get("/readyz", key=None).status == 200


def test_a_stand_in_that_is_down_keeps_nobody_waiting(start: Start) -> None:
    """An endpoint whose own engine is down is ready if its fallback is healthy."""
    away = endpoint(pool="away", addresses=("unix:away",)).pool
    platform = start([{"fallback": ("away",)}], [{}], more=(away,))
    ready = platform.get("/readyz", key=None)
    assert (ready.status, ready.json) == (200, {"ready": True, "pools": {"ready": 1, "total": 2}})
    platform.kill_engine("null")
    platform.until(lambda: platform.get("/readyz", key=None).status == 503)
    platform.start_engine(null_engine("away"))
    platform.until(lambda: platform.get("/readyz", key=None).status == 200)


def test_a_full_pool_rejects_with_retry_after(start: Start) -> None:
    platform = start([{"slots": 1}], [{"slots": 1, "ttft_s": 0.05}])
    room = 1 + int(0.75 * (4 * 1 + 16))
    with ThreadPoolExecutor(40) as threads:
        replies = list(threads.map(lambda _: platform.chat(max_tokens=1), range(40)))
    rejected = [reply for reply in replies if reply.status == 429]
    assert len(replies) - len(rejected) >= room and {reply.status for reply in replies} == {200, 429}
    for reply in rejected:
        assert reply.error["code"] == "queue_full" and int(reply.headers["retry-after"]) >= 1
    assert platform.requests("rejected") == len(rejected)


@pytest.mark.parametrize(
    ("limits", "engine", "message"),
    [
        (ClientLimits(first_token_s=0.3), {"ttft_s": 30}, "did not start to respond"),
        (ClientLimits(stall_s=0.3), {"tpot_s": 30}, "sent nothing for 0.3 s"),
        (ClientLimits(request_s=0.5), {"tpot_s": 0.01}, "longer than the limit of 0.5 s"),
    ],
    ids=["first token", "stall", "whole"],
)
def test_deadlines(start: Start, limits: ClientLimits, engine: dict[str, Any], message: str) -> None:
    platform = start([{}], [engine], limits=limits)
    plain, streamed = platform.chat(max_tokens=4000), platform.chat(max_tokens=4000, stream=True)
    assert plain.status == 504 and message in plain.error["message"]
    error = streamed.error if streamed.status == 504 else streamed.events[-1]["error"]
    assert message in error["message"]
    platform.until(lambda: platform.engine_metrics()["null:requests_processing"] == 0)
    platform.until(lambda: platform.in_flight() == 0)


def test_sigterm_finishes_what_runs_and_does_not_wait_for_ever(start: Start) -> None:
    platform = start([{}], [{"tpot_s": 0.02}], limits=ClientLimits(drain_s=5.0))
    short = platform.open_chat(max_tokens=20, stream=True)
    running = platform.open_chat(max_tokens=4000, stream=True)
    waiting = platform.open_chat(max_tokens=4000)
    assert short.recv(1000) and running.recv(1000)
    platform.master.send_signal(signal.SIGTERM)
    assert b"[DONE]" in rest_of(short)
    assert b"shutting down" in rest_of(running)
    assert b"503 Service Unavailable" in waiting.recv(4000)
    assert platform.master.wait(WAIT_S) == 0
    assert "stopped" in platform.home.log("gateway").read_text()


def test_it_does_not_outlive_the_supervisor(start: Start) -> None:
    platform = start([{}], [{}])
    assert platform.master.stdin is not None
    platform.master.stdin.close()
    platform.master.wait(WAIT_S)


ENTRY = endpoint(workload="w", addresses=("unix:e",), default_max_tokens=1, context_tokens=1, slots=1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "archwright.serving", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_gateway_that_cannot_start_says_why(tmp_path: Path, null: Platform) -> None:
    def started(config: GatewayConfig) -> list[str]:
        path = tmp_path / "gateway.json"
        path.write_bytes(msgspec.json.encode(config))
        done = run(str(tmp_path / "home"), str(path))
        assert done.returncode == 8
        return done.stderr.splitlines()[-3:]

    clear = started(table(ENTRY, host="0.0.0.0"))
    assert clear[0].startswith("AW-OPS-11") and "host" in clear[1] and "tls_certificate" in clear[2]
    assert started(table(ENTRY, port=null.config.port))[0].startswith("AW-OPS-03"), "the port is in use"
    done = run("only-one")
    assert done.returncode == 2 and "python -P -m archwright.serving HOME CONFIG.json" in done.stderr


def test_serves_with_tls_on_any_address(start: Start, tls_pair: tuple[str, str]) -> None:
    certificate, key = tls_pair
    platform = start([{}], [{}], ready=True, host="127.0.0.1", tls_certificate=certificate, tls_key=key)
    assert platform.url.startswith("https://")
    assert platform.chat(stream=True).events[-1] == "[DONE]"
    with socket.create_connection(("127.0.0.1", platform.config.port), 5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n")
        assert b"HTTP/1.1" not in plain.recv(100)
    platform.context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        platform.get("/healthz")

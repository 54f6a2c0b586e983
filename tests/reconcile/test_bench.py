"""The bench client against real HTTP servers on loopback that behave as foreign endpoints do, well and badly."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from archwright.contract.needs import Length
from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.errors import ReconcileError
from archwright.policy.traffic import peak_arrivals
from archwright.reconcile.bench import BenchResult, Limits, Progress, Target, drive, run_bench
from archwright.reconcile.wire import base_url

pytestmark = pytest.mark.enable_socket

Serve = Callable[..., str]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "sk-never-shown-0123456789"
PROBES = 2
TEMPLATE, PER_WORD = 12, 1.25
QUICK = Limits(connect_s=2.0, idle_s=0.4, drain_s=0.4)


class Endpoint:
    """A well-behaved foreign server with fixed timings, unless told otherwise; keeps what it was sent and when."""

    def __init__(
        self,
        *,
        ttft_s: float = 0.0,
        tpot_s: float = 0.0,
        usage: str = "stream",
        refuse: frozenset[str] = frozenset(),
        fault: Fault | None = None,
        faulty: Callable[[int], bool] = lambda n: n > PROBES,
    ) -> None:
        self.ttft_s, self.tpot_s, self.usage, self.refuse = ttft_s, tpot_s, usage, refuse
        self.fault, self.faulty = fault, faulty
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ttfts: list[float] = []
        self.tpots: list[float] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        received = time.perf_counter()
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.fault is not None and self.faulty(len(self.bodies)):
            return await self.fault(request)
        if refused := self.refuse & body.keys():
            message = f"unknown {sorted(refused)} in {body['messages']}"
            return web.json_response({"error": {"message": message, "code": "unknown_field"}}, status=400)
        prompt = round(TEMPLATE + PER_WORD * len(body["messages"][0]["content"].split()))
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": limit}
        if not body["stream"]:
            return web.json_response({"choices": [], **({} if self.usage == "none" else {"usage": usage})})
        response = await begin(request)
        await event(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(self.ttft_s)
        first = time.perf_counter()
        for number in range(limit):
            await event(response, {"choices": [{"delta": {"content": "word "}, "finish_reason": None}]})
            last = time.perf_counter()
            if number < limit - 1:
                await asyncio.sleep(self.tpot_s)
        self.ttfts.append(first - received)
        self.tpots += [(last - first) / (limit - 1)] if limit > 1 else []
        await event(response, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        if self.usage == "stream":
            await event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(data).encode() + b"\r\n\r\n")


def bench(url: str, load: LoadSpec, limits: Limits = QUICK, **target: Any) -> BenchResult:
    return run_bench(Target(url, KEY, "small", **target), load, limits=limits, chance=random.Random(5))


def refusal(url: str, load: LoadSpec, **target: Any) -> ReconcileError:
    with pytest.raises(ReconcileError) as caught:
        bench(url, load, **target)
    error = caught.value
    assert KEY not in error.lines()
    assert 2 <= len(error.lines().splitlines()) <= 3
    assert error.hint
    return error


def test_the_client_agrees_with_a_server_of_known_timings(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(ttft_s=0.08, tpot_s=0.012)
    load = replace(load, closed_s=1.5)
    result = bench(serve(endpoint), load, Limits(), workload="chat")
    peak, closed = result.phase("peak"), result.phase("closed")
    assert peak is not None and closed is not None
    ttft = statistics.median(peak.values(lambda r: r.ttft_s) + closed.values(lambda r: r.ttft_s))
    tpot = statistics.median(peak.values(lambda r: r.tpot_s) + closed.values(lambda r: r.tpot_s))
    assert ttft == pytest.approx(statistics.median(endpoint.ttfts), rel=0.25)
    assert tpot == pytest.approx(statistics.median(endpoint.tpots), rel=0.25)
    assert [request.due_s for request in peak.requests] == [arrival.at_s for arrival in peak_arrivals(load)]
    assert peak.count("finished") == len(peak.requests)
    assert all(request.sent_s >= request.due_s for request in peak.requests)
    assert 1 <= closed.count("cut") <= load.concurrency
    mean = load.output_tokens.mean
    expected = load.concurrency * mean / (ttft + (mean - 1) * tpot)
    assert closed.tokens_delivered / closed.window_s == pytest.approx(expected, rel=0.35)
    assert closed.window_s == pytest.approx(load.closed_s, abs=0.3)
    assert peak.ended_at <= closed.started_at <= time.time()
    assert not any("ignore_eos" in note or "usage" in note for note in result.notes)


def test_the_traffic_is_the_plans_and_no_two_prompts_open_alike(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint()
    result = bench(serve(endpoint), load, workload="chat")
    sent = endpoint.bodies[PROBES:]
    arrivals = peak_arrivals(load)
    for body, arrival in zip(sent, arrivals, strict=False):
        words = body["messages"][0]["content"].split()
        assert TEMPLATE + PER_WORD * len(words) == pytest.approx(max(arrival.input_tokens, TEMPLATE + 1), abs=1.5)
        assert (body["max_tokens"], body["ignore_eos"]) == (arrival.output_tokens, True)
        assert body["stream_options"] == {"include_usage": True}
    openings = {tuple(body["messages"][0]["content"].split()[:2]) for body in endpoint.bodies}
    assert len(openings) == len(endpoint.bodies)
    assert {headers["Authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    assert {headers["x-archwright-workload"] for headers in endpoint.headers} == {"chat"}
    assert result.tokens_per_word == pytest.approx(PER_WORD, abs=0.02)


def test_neither_key_nor_prompt_nor_answer_is_in_the_result(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint()
    result = bench(serve(endpoint), load)
    text = msgspec.json.encode(result).decode()
    assert KEY not in text
    assert endpoint.bodies[PROBES]["messages"][0]["content"] not in text
    assert "word word" not in text
    assert KEY not in repr(Target("http://h/v1", KEY, "m"))
    assert "x-archwright-workload" not in endpoint.headers[0]


def test_an_endpoint_that_knows_no_ignore_eos_is_asked_without_it(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(refuse=frozenset({"ignore_eos"}))
    result = bench(serve(endpoint), load)
    assert [("ignore_eos" in body) for body in endpoint.bodies[:2]] == [True, False]
    assert not any("ignore_eos" in body for body in endpoint.bodies[1:])
    assert any("refuses ignore_eos" in note for note in result.notes)


def test_a_strict_endpoint_gets_the_newer_limit_field(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(refuse=frozenset({"ignore_eos", "max_tokens", "stream_options"}), usage="plain")
    result = bench(serve(endpoint), load)
    assert set(endpoint.bodies[-1]) == {"model", "messages", "stream", "max_completion_tokens"}
    assert any("no usage in streams" in note for note in result.notes)


@pytest.mark.parametrize(("usage", "guessed"), [("plain", False), ("none", True)])
def test_without_usage_in_streams_chunks_are_counted(serve: Serve, load: LoadSpec, usage: str, guessed: bool) -> None:
    result = bench(serve(Endpoint(usage=usage)), load)
    peak = result.phase("peak")
    assert peak is not None
    assert [request.output_tokens for request in peak.requests] == [request.asked_tokens for request in peak.requests]
    assert any("no usage in streams" in note for note in result.notes)
    assert any("guess" in note for note in result.notes) == guessed
    assert guessed or result.tokens_per_word == pytest.approx(PER_WORD, abs=0.02)


def replying(status: int, body: str, content_type: str = "application/json", **headers: str) -> Fault:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=content_type, headers=headers)

    return reply


async def hanging(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3)
    return web.Response()


async def chattering(request: web.Request) -> web.StreamResponse:
    response = await begin(request)
    for _ in range(60):
        await response.write(b": still here\n\n")
        await asyncio.sleep(0.05)
    return response


async def stalling(request: web.Request) -> web.StreamResponse:
    response = await begin(request)
    await event(response, {"choices": [{"delta": {"content": "a"}}]})
    await asyncio.sleep(3)
    return response


async def dying(request: web.Request) -> web.StreamResponse:
    response = await begin(request)
    await event(response, {"choices": [{"delta": {"content": "a"}}]})
    assert request.transport is not None
    request.transport.abort()
    return response


async def slamming(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def saying(*pieces: bytes) -> Fault:
    async def say(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return say


ECHO = json.dumps({"error": {"message": f"bad key {KEY}", "type": "x", "code": f"no {KEY}"}})
NO_MODEL = json.dumps({"error": {"message": "no", "code": "model_not_found"}})


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (replying(401, ECHO), "AW-REC-12", "401"),
        (replying(403, "no", "text/plain"), "AW-REC-12", "403"),
        (replying(404, "<html>", "text/html"), "AW-REC-13", "small"),
        (replying(400, NO_MODEL), "AW-REC-13", "small"),
        (replying(400, ECHO), "AW-REC-18", "400 (x)"),
        (replying(422, "[]"), "AW-REC-18", "422"),
        (replying(500, "<html>oops", "text/html"), "AW-REC-18", "500"),
        (replying(500, '{"error": "text"}'), "AW-REC-18", "500"),
        (replying(307, "", Location="http://elsewhere.example/"), "AW-REC-14", "redirects"),
        (replying(200, "<html>hello", "text/html"), "AW-REC-15", "text/html"),
        (replying(200, '{"choices": []}'), "AW-REC-15", "application/json"),
        (saying(b"data: <html>\n\n"), "AW-REC-15", "not what OpenAI defines"),
        (saying(b'data: {"choices": 5}\n\n'), "AW-REC-15", "not what OpenAI defines"),
        (saying(b"data: " + b"x" * 5_000_000), "AW-REC-15", "no end"),
        (saying(b'data: {"error": {"message": "overloaded"}}\n\n'), "AW-REC-17", "error inside the stream"),
        (saying(b'data: {"choices": []}\n\n'), "AW-REC-17", "ended before"),
        (saying(), "AW-REC-17", "ended before"),
        (hanging, "AW-REC-16", "no answer for 0.4 s"),
        (chattering, "AW-REC-16", "no complete answer"),
        (stalling, "AW-REC-16", "the answer stopped for 0.4 s"),
        (dying, "AW-REC-17", "mid-answer"),
        (slamming, "AW-REC-17", "before an answer"),
    ],
)
def test_an_endpoint_that_cannot_be_measured_is_said_at_the_first_probe(
    serve: Serve, load: LoadSpec, fault: Fault, code: str, says: str
) -> None:
    began = time.monotonic()
    error = refusal(serve(Endpoint(fault=fault, faulty=lambda _: True)), load)
    assert (error.code, says in error.message) == (code, True), error.message
    assert time.monotonic() - began < 5


def test_nothing_listens(load: LoadSpec) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refusal(f"http://127.0.0.1:{port}/v1", load)
    assert error.code == "AW-REC-10"
    assert "refused" in error.message
    assert str(port) in error.where.file if error.where.file else False


def test_a_host_that_does_not_exist(load: LoadSpec) -> None:
    assert refusal("http://no-such-host.invalid/v1", load).code == "AW-REC-10"


def test_a_host_that_never_completes_a_connection(load: LoadSpec) -> None:
    """A listener whose backlog is full drops the handshake, as a firewall does."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        with pytest.raises(ReconcileError) as caught:
            bench(f"http://127.0.0.1:{port}/v1", load, Limits(connect_s=0.3, idle_s=5.0))
        for filler in fillers:
            filler.close()
    assert (caught.value.code, "no connection within 0.3 s" in caught.value.message) == ("AW-REC-10", True)


def test_a_port_that_speaks_something_else(load: LoadSpec, serve: Serve) -> None:
    async def scenario() -> str:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"220 mail.example ESMTP\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(ReconcileError) as caught:
                await drive(Target(f"http://127.0.0.1:{port}/v1", None, "m"), load, limits=QUICK)
        return caught.value.code

    assert asyncio.run(scenario()) == "AW-REC-15"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=loopback "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(
        command.split(),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "both.pem").write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return folder / "both.pem"


def test_tls_is_verified_unless_told_otherwise(serve: Serve, load: LoadSpec, certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    secure = serve(Endpoint(), tls=context)
    short = replace(load, peak_s=0.2, closed_s=0.2)
    assert refusal(secure, short).code == "AW-REC-11"
    assert refusal(secure.replace("127.0.0.1", "localhost"), short, ca_file=str(certificate)).code == "AW-REC-11"
    assert not any("TLS" in note or "verified" in note for note in bench(secure, short, ca_file=str(certificate)).notes)
    assert any("not verified" in note for note in bench(secure, short, verify_tls=False).notes)
    assert refusal(serve(Endpoint()).replace("http:", "https:"), short).code == "AW-REC-11"
    absent = refusal(secure, short, ca_file=str(tmp_path / "absent.pem"))
    assert (absent.code, absent.where.file) == ("AW-REC-11", str(tmp_path / "absent.pem"))


def test_single_failures_are_counted_and_noted(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=replying(503, "{}"), faulty=lambda n: n > PROBES and n % 3 == 0)
    result = bench(serve(endpoint), load)
    for phase in result.phases:
        failed = phase.count("failed")
        assert 0 < failed < len(phase.requests)
        assert f"{phase.name}: {failed} of {len(phase.requests)} requests failed: AW-REC-18" in " ".join(result.notes)
    assert len(endpoint.bodies) < 20_000


def test_streams_that_die_in_the_middle_are_failures_without_tpot(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=dying, faulty=lambda n: n > PROBES and n % 2 == 0)
    peak = bench(serve(endpoint), load).phase("peak")
    assert peak is not None
    broken = [request for request in peak.requests if request.outcome == "failed"]
    assert broken
    assert {request.code for request in broken} == {"AW-REC-17"}
    assert all(request.tpot_s is None for request in broken)


def test_a_phase_in_which_everything_fails_is_an_error(serve: Serve, load: LoadSpec) -> None:
    error = refusal(serve(Endpoint(fault=replying(503, ECHO))), load)
    assert error.code == "AW-REC-18"
    count = len(peak_arrivals(load))
    assert error.message.startswith(f"all {count} requests of the peak phase failed; mostly: the server answers 503")


def test_a_server_that_stops_answering_is_an_error(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=hanging)
    with pytest.raises(ReconcileError) as caught:
        bench(serve(endpoint), replace(load, peak_s=0.5), Limits(idle_s=2.0, drain_s=0.2))
    assert (caught.value.code, "none of the" in caught.value.message) == ("AW-REC-16", True)


def test_the_drain_is_bounded_and_what_it_cuts_is_noted(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=stalling, faulty=lambda n: n > PROBES and n % 4 == 0)
    result = bench(serve(endpoint), load, Limits(idle_s=2.5, drain_s=0.2))
    peak = result.phase("peak")
    assert peak is not None
    assert peak.count("cut") > 0
    assert peak.window_s < load.peak_s + 1
    assert any("ended unfinished after the drain" in note for note in result.notes)


def test_short_answers_are_noted(serve: Serve, load: LoadSpec) -> None:
    async def curt(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await event(response, {"choices": [{"delta": {"reasoning_content": "a"}, "finish_reason": "stop"}]})
        return response

    result = bench(serve(Endpoint(fault=curt)), replace(load, output_tokens=Length(mean=20, p95=30)))
    assert any("answers held 1 tokens on average" in note for note in result.notes)


def test_progress_is_told_for_both_phases(serve: Serve, load: LoadSpec) -> None:
    told: list[Progress] = []
    run_bench(Target(serve(Endpoint()), None, "small"), load, told.append, limits=QUICK)
    assert {progress.phase for progress in told} == {"peak", "closed"}
    last = [progress for progress in told if progress.phase == "peak"][-1]
    assert (last.started, last.finished, last.failed) == (len(peak_arrivals(load)), len(peak_arrivals(load)), 0)
    assert last.elapsed_s >= last.total_s == load.peak_s


def test_a_broken_progress_callback_does_not_stop_the_bench_half_way(serve: Serve, load: LoadSpec) -> None:
    def broken(progress: Progress) -> None:
        raise RuntimeError("closed terminal")

    with pytest.raises(RuntimeError, match="closed terminal"):
        run_bench(Target(serve(Endpoint()), None, "small"), load, broken, limits=QUICK)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/v1/", "https://h/v1"),
        (" http://h:1 ", "http://h:1/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_addresses(given: str, used: str) -> None:
    assert base_url(given) == used


@pytest.mark.parametrize(
    "url",
    ["", "h:80", "ftp://h/v1", "http:///v1", "http://u:pw@h/v1", "http://h/v1?key=pw", "http://h:99999/", "http://[/"],
)
def test_addresses_that_cannot_be_used(url: str, load: LoadSpec) -> None:
    error = refusal(url, load)
    assert error.code == "AW-REC-19"
    assert "pw" not in error.lines()


def test_a_key_that_no_header_can_carry(load: LoadSpec) -> None:
    with pytest.raises(ReconcileError) as caught:
        run_bench(Target("http://127.0.0.1:9/v1", "secret\nkey", "m"), load)
    assert caught.value.code == "AW-REC-19"
    assert "secret" not in caught.value.lines()

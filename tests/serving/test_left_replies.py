"""Clients that leave a hosted provider's reply pay what the provider bills, and own engines stop."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from select import select
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.serving.conftest import Platform, free_port, starting
from tests.serving.fake_provider import Script, chat_events, message_events, message_start, standing_in, whole, words
from tests.tools.checks import WAIT_S, until

from archwright.api.budget_conformance import ConformanceOptions, conformance
from archwright.contract.served import RequestRecord
from archwright.monitor.usage import read_usage
from archwright.monitor.wal.compaction import read_served
from archwright.policy.usage_limits import TEMPLATE_TOKENS
from archwright.reconcile.conformance.paid_provider import DOCUMENTS, PIECES, REASONING, SOUND, Bill, PaidProvider
from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Start
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 1e-6, 4e-6
PRICED: dict[str, Any] = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD, "slots": 32, "health_path": ""}
LENGTH, REQUESTS, PAUSE_S, CONTEXT = 400, 12, 0.1, 200_000


class ProviderThread:
    """A provider with an event loop of its own."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self.provider, self.port = PaidProvider(pause_s), 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with self.provider.serve("127.0.0.1", 0) as self.port:
            self._ready.set()
            await self._end.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_S)


class Hosted(NamedTuple):
    platform: Platform
    provider: ProviderThread


@pytest.fixture(scope="module")
def hosted(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """Two workers before the provider: its models with pieces, reasoning and documents."""
    provider = ProviderThread()
    pools = [
        {"model": model, "workload": model, "pool": model, "addresses": (provider.url,), "context_tokens": CONTEXT}
        for model in (PIECES, REASONING, DOCUMENTS)
    ]
    pools[-1]["protocol"] = "anthropic"
    try:
        with starting(tmp_path_factory.mktemp("hosted")) as start:
            yield Hosted(start([{**one, **PRICED} for one in pools], [], workers=2), provider)
    finally:
        provider.stop()


def spend(platform: Platform, tenant: str) -> float:
    with closing(platform.store) as store:
        return sum(line.cost_usd for line in read_usage(store, platform.home, tenant=tenant, by="tenant"))


Leaves = Callable[[bytes, int], bool]
"""True if the client leaves, by what it has read and how many requests the provider got since it sent its own."""


def leave_when(hosted: Hosted, key: str, body: dict[str, Any], leaves: Leaves) -> int:
    """Send a request and close its connection when it `leaves`. Returns the status; 0: none came."""
    bills, seen = hosted.provider.provider, b""
    asked_before = bills.bill.requests
    path = "/v1/messages" if body["model"] == DOCUMENTS else "/v1/chat/completions"
    with closing(hosted.platform.connection()) as connection:
        connection.request("POST", path, json.dumps(body).encode(), {"authorization": f"Bearer {key}"})

        def is_over() -> bool:
            return leaves(seen, bills.bill.requests - asked_before)

        until(lambda: is_over() or select([connection.sock], [], [], 0)[0])
        if is_over():
            return 0
        reply = connection.getresponse()
        while reply.status == 200 and not is_over() and (piece := reply.read1()):
            seen += piece
        return reply.status


def worst_usd(body: dict[str, Any], input_tokens: int = 0) -> float:
    tokens = input_tokens or len(json.dumps(body)) + TEMPLATE_TOKENS
    return tokens * IN_USD + LENGTH * OUT_USD


class Left(NamedTuple):
    """What a tenant was charged and billed, and the statuses of its requests."""

    charged_usd: float
    bill: Bill
    statuses: list[int]


def spend_and_leave(hosted: Hosted, tenant: str, body: dict[str, Any], leaves: Leaves, budget_usd: float) -> Left:
    """A key with this budget sends many requests and leaves each."""
    platform, provider = hosted
    provider.provider.take_bill()
    key = platform.made_key(tenant, budget_usd=budget_usd)
    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(lambda _: leave_when(hosted, key, body, leaves), range(REQUESTS)))
    platform.until(lambda: count_charged(platform, tenant) == provider.provider.bill.requests)
    assert provider.provider.bill.requests < REQUESTS, "the budget refuses some"
    return Left(spend(platform, tenant), provider.provider.bill, statuses)


def count_charged(platform: Platform, tenant: str) -> int:
    """A client may leave before its request is sent on: nothing is generated then, and nothing is charged."""
    return sum((record.cost_usd or 0.0) > 0 for record in records(platform, tenant))


def chat_body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": LENGTH, "messages": [{"role": "user", "content": "Say something."}], **fields}


@pytest.mark.parametrize(("model", "texts"), [(PIECES, LENGTH), (REASONING, LENGTH // 10)])
def test_a_stream_left_before_its_usage_is_charged_as_billed(hosted: Hosted, model: str, texts: int) -> None:
    """Its pieces have 100 tokens, or 90 % of its tokens are hidden. The client reads all text and leaves then."""
    body = chat_body(model, stream=True)
    budget = 4 * worst_usd(body)
    left = spend_and_leave(hosted, model, body, lambda seen, _: seen.count(b"word") >= texts, budget)
    assert 4 <= left.bill.requests == left.statuses.count(200) and 429 in left.statuses
    assert left.bill.to_usd(IN_USD, OUT_USD) == pytest.approx(left.charged_usd) and left.charged_usd <= budget


def test_a_complete_reply_left_early_is_charged_as_billed(hosted: Hosted) -> None:
    body = chat_body(PIECES)
    budget = 4 * worst_usd(body)
    left = spend_and_leave(hosted, "complete", body, lambda _, asked: asked > 0, budget)
    assert left.bill.requests >= 3
    assert left.bill.to_usd(IN_USD, OUT_USD) == pytest.approx(left.charged_usd) and left.charged_usd <= budget


def test_documents_are_charged_as_the_provider_counts_them(hosted: Hosted) -> None:
    """Base64 says little about the tokens of a PDF document."""
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(bytes(3000)).decode()}
    content = [{"type": "document", "source": source}, {"type": "text", "text": "Sum it up."}]
    body = {**chat_body(DOCUMENTS, stream=True), "messages": [{"role": "user", "content": content}]}
    budget = 4 * worst_usd(body, CONTEXT)
    left = spend_and_leave(hosted, "documents", body, lambda seen, _: seen.count(b"word") >= LENGTH, budget)
    assert left.bill.requests == left.statuses.count(200) >= 4
    assert left.bill.to_usd(IN_USD, OUT_USD) == pytest.approx(left.charged_usd) and left.charged_usd <= budget


def test_the_suite_finds_the_bill_of_a_provider_recorded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two workers. The suite runs the provider at the address of one that was there when the gateway started."""
    kinds: dict[str, dict[str, Any]] = {
        PIECES: {},
        REASONING: {},
        DOCUMENTS: {"protocol": "anthropic"},
        SOUND: {"transcriptions": True},
    }
    quick = {**PRICED, "health_path": "/health", "model": "q", "workload": "q", "pool": "q"}
    with standing_in() as before:
        common = {**PRICED, "addresses": (before.url,), "context_tokens": CONTEXT}
        pools = [{**common, **kind, "model": name, "workload": name, "pool": name} for name, kind in kinds.items()]
        platform = start([quick, *pools], [{}], workers=2, admin_port=free_port())
    monkeypatch.setenv("OWNER_KEY", platform.owner)
    options = ConformanceOptions(
        key_env="OWNER_KEY",
        admin=f"http://127.0.0.1:{platform.config.admin_port}/admin",
        price="1:4",
        model="q",
        requests=4,
        provider=f"127.0.0.1:{before.port}",
    )
    report = conformance(platform.url, options=options)
    cases = report.cases[-5:]
    assert {(case.verdict, case.note) for case in cases} == {("ok", "")}
    assert [case.answered > 0 for case in cases] == [True] * 4 + [False], "the sound is refused"


def records(platform: Platform, tenant: str) -> list[RequestRecord]:
    return [one for one in read_served(platform.store, platform.home) if one.tenant == tenant]


@pytest.fixture(scope="module")
def upstreams(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Place]]:
    """One server in the place of two providers and two own engines. A request may take 2 s."""
    common = {**PRICED, "context_tokens": 4096, "embeddings": True}
    kinds: dict[str, dict[str, Any]] = {
        "hosted": {"own": False},
        "claude": {"own": False, "protocol": "anthropic", "embeddings": False},
        "vllm": {"engine": "vllm"},
        "llama-server": {"engine": "llama-server"},
    }
    with standing_in() as place, starting(tmp_path_factory.mktemp("upstreams")) as start:
        at = {"addresses": (place.url,)}
        pools = [
            {**common, **at, **kind, "model": name, "workload": name, "pool": name} for name, kind in kinds.items()
        ]
        yield start(pools, [], limits=ClientLimits(request_s=2.0)), place


def leave_one(
    upstreams: tuple[Platform, Place], model: str, script: Script, path: str = "/v1/chat/completions", **fields: Any
) -> RequestRecord:
    """Leave one request once the upstream has it and what it sends of a stream has arrived. Returns its record."""
    platform, place = upstreams
    place.script = script
    place.gone.clear()
    asked, tenant = len(place.asked), f"one-{len(place.asked)}"
    key = platform.made_key(tenant, budget_usd=1.0)
    body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "x"}], **fields}
    if path == "/v1/embeddings":
        body = {"model": model, "input": "x"}
    with closing(platform.connection()) as connection:
        connection.request("POST", path, json.dumps(body).encode(), {"authorization": f"Bearer {key}"})
        platform.until(lambda: len(place.asked) > asked)
        if fields.get("stream"):
            assert connection.getresponse().read1()
    platform.until(lambda: bool(records(platform, tenant)))
    (record,) = records(platform, tenant)
    return record


TEXT = chat_events({"choices": [{"delta": {"content": "a"}}]})[0]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete reply"])
def test_a_reply_that_never_ends_costs_what_was_reserved(upstreams: tuple[Platform, Place], stream: bool) -> None:
    """The rest is read for as long as a request may take."""
    pieces = [TEXT] if stream else []
    record = leave_one(upstreams, "hosted", Script(pieces, hangs=True), stream=stream)
    assert (record.status, record.output_tokens, record.http_status) == ("cancelled", 50, 200 if stream else 499)
    assert record.cost_usd == record.reserved_usd


def test_stated_input_of_a_reply_that_never_ends_is_believed(upstreams: tuple[Platform, Place]) -> None:
    pieces = message_events(message_start(input_tokens=1234), *words(0, "a")[:2])
    record = leave_one(upstreams, "claude", Script(pieces, hangs=True), stream=True)
    assert (record.input_tokens, record.output_tokens) == (1234, 50)


def test_input_that_headers_state_is_believed(upstreams: tuple[Platform, Place]) -> None:
    """The reply has no usage of its own."""
    vectors = {"data": [{"index": 0, "embedding": [1.0]}]}
    script = whole(vectors, after_s=0.3, headers={"x-prompt-tokens": "77"})
    record = leave_one(upstreams, "hosted", script, path="/v1/embeddings")
    assert (record.status, record.input_tokens) == ("cancelled", 77)
    said = {"choices": [{"index": 0, "message": {"content": "abcd"}, "finish_reason": "stop"}]}
    script = whole(said, after_s=0.3, headers={"X-Amzn-Bedrock-Input-Token-Count": "78"})
    record = leave_one(upstreams, "hosted", script)
    assert (record.status, record.input_tokens, record.output_tokens) == ("cancelled", 78, 1)


def test_a_request_that_the_provider_refuses_after_all_costs_nothing(upstreams: tuple[Platform, Place]) -> None:
    record = leave_one(upstreams, "hosted", whole({"error": {"message": "no"}}, 400, after_s=0.3))
    assert (record.status, record.cost_usd, record.tries) == ("refused", 0.0, 1)


@pytest.mark.parametrize("engine", ["vllm", "llama-server"])
def test_own_engines_stop_and_charge_what_they_streamed(upstreams: tuple[Platform, Place], engine: str) -> None:
    record = leave_one(upstreams, engine, Script([TEXT], hangs=True), stream=True)
    assert upstreams[1].gone.wait(WAIT_S), "the engine's work is cancelled"
    assert (record.status, record.output_tokens) == ("cancelled", 1)


def test_input_that_an_own_engine_states_is_believed(upstreams: tuple[Platform, Place]) -> None:
    progress = chat_events({"choices": [], "prompt_progress": {"total": 99, "processed": 99}})[0]
    record = leave_one(upstreams, "llama-server", Script([progress, TEXT], hangs=True), stream=True)
    assert (record.input_tokens, record.output_tokens) == (99, 1)


def test_what_is_left_when_the_gateway_stops_costs_what_was_reserved(start: Start, place: Place) -> None:
    place.script = Script([TEXT], hangs=True)
    hosted = {"addresses": (place.url,), **PRICED, "own": False}
    platform = start([hosted], [], limits=ClientLimits(drain_s=0.2))
    with platform.open_chat(max_tokens=50, stream=True) as connection:
        assert connection.recv(1000)
    platform.master.terminate()
    platform.master.wait(WAIT_S)
    (record,) = records(platform, "acme")
    assert (record.status, record.output_tokens) == ("cancelled", 50)

"""The budget suite against a stand-in gateway with the administration of LiteLLM: correct, and with one fault each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tests.reconcile.fake_endpoint import Request, Response, Server, StreamResponse, json_response

from archwright.api.budget_conformance import ConformanceOptions, conformance
from archwright.errors import ReconcileError, UsageError
from archwright.reconcile.conformance.key_administration import LitellmAdministration
from archwright.reconcile.conformance.request_templates import Answer
from archwright.reconcile.conformance.suite_report import ConformanceReport

pytestmark = pytest.mark.enable_socket
PROMPT, OUTPUT = 40, 32
IN_USD, OUT_USD = 1e-6, 4e-6
EDGES = (
    "concurrent requests",
    "requests one after another",
    "streams with usage",
    "streams without usage",
    "two keys of one budget",
    "embeddings",
)
FILES = ("batch", "cancelled batch", "rates of file requests", "ranges of a file")
CACHES = ("cache writes", "cache writes for an hour", "cache reads")
READ_USD, WRITE_USD, HOUR_USD = 0.1e-6, 1.25e-6, 2e-6
OTHERS = ("streams left by the client", "retries of one request", "invalid requests")


class Budget:
    def __init__(self, usd: float) -> None:
        self.usd, self.held, self.spent = usd, 0.0, 0.0


class GatewayKey(NamedTuple):
    budget: Budget
    recorded: list[float]


class StandIn:
    """Answers 32 tokens at a fixed price from an exact budget, unless it has a `fault`."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.keys: dict[str, GatewayKey] = {}
        self.teams: dict[str, Budget] = {}
        self.ended = 0
        names = {"/key/generate": self.generate, "/team/new": self.create_team, "/v2/key/info": self.show}
        self.cached: set[str] = set()
        names |= {"/v1/messages": self.answer_message}
        names |= {"/v1/chat/completions": self.chat, "/v1/embeddings": self.embed, "/v1/files": self.absent}
        self.server = Server({("POST", path): handler for path, handler in names.items()}, None)

    async def generate(self, request: Request) -> Response:
        fields, key = await request.json(), f"key-{len(self.keys)}"
        team = fields.get("team_id")
        self.keys[key] = GatewayKey(self.teams[team] if team else Budget(fields["max_budget"]), [])
        return json_response({"key": key})

    async def create_team(self, request: Request) -> Response:
        name = f"team-{len(self.teams)}"
        self.teams[name] = Budget((await request.json())["max_budget"])
        return json_response({"team_id": name})

    async def show(self, request: Request) -> Response:
        (key,) = (await request.json())["keys"]
        return json_response({"info": [{"spend": sum(self.keys[key].recorded)}]})

    async def absent(self, request: Request) -> Response:
        return json_response({"error": {"message": "no such path"}}, 404)

    async def embed(self, request: Request) -> Response:
        return await self.spend(request, {"prompt_tokens": PROMPT * 20, "total_tokens": PROMPT * 20})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        key = self.keys.get(request.headers["Authorization"].removeprefix("Bearer "))
        if key is None:
            return json_response({"error": {"code": "invalid_api_key"}}, 401)
        if isinstance(body["messages"], str):
            key.recorded.append(1e-6 if self.fault == "bills failures" else 0.0)
            return json_response({"error": {"message": "messages is no list"}}, 400)
        return await self.spend(request, {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT})

    async def answer_message(self, request: Request) -> Response:
        marked = (await request.json())["messages"][0]["content"][0]
        write_usd = HOUR_USD if marked["cache_control"]["ttl"] == "1h" else WRITE_USD
        kind, usd = ("read", READ_USD) if marked["text"] in self.cached else ("creation", write_usd)
        self.cached.add(marked["text"])
        if self.fault == "prices caches as input":
            usd = IN_USD
        usage = {"input_tokens": PROMPT, f"cache_{kind}_input_tokens": 1000, "output_tokens": OUTPUT}
        return await self.spend(request, usage, PROMPT * IN_USD + 1000 * usd + OUTPUT * OUT_USD)

    async def spend(self, request: Request, usage: dict[str, int], stated_usd: float | None = None) -> Response:
        body = await request.json()
        budget, recorded = self.keys[request.headers["Authorization"].removeprefix("Bearer ")]
        usd = stated_usd
        if usd is None:
            usd = usage["prompt_tokens"] * IN_USD + usage.get("completion_tokens", 0) * OUT_USD
        held = 0.0 if self.fault == "reserves nothing" else budget.held
        usable = budget.usd / 2 if self.fault == "refuses early" else budget.usd
        if self.fault != "ignores budgets" and budget.spent + held + usd > usable + 1e-12:
            return json_response({"error": {"code": "insufficient_quota"}}, 429)
        budget.held += usd
        reply: Response = json_response({"usage": usage})
        try:
            if "stream" in body:
                reply = StreamResponse()
                await self.write_stream(reply, request, body, usage)
            else:
                await asyncio.sleep(0.02)
        except ConnectionError:
            usd = 0.0 if self.fault == "forgets who left" else usd
            raise
        finally:
            budget.held -= usd
            if not (self.fault == "never bills streams" and "stream" in body):
                budget.spent += usd
                recorded.append(usd * (2 if self.fault == "bills twice" else 1))
        return reply

    async def write_stream(self, reply: StreamResponse, request: Request, body: Any, usage: Any) -> None:
        await reply.prepare(request)
        for _ in range(OUTPUT):
            await reply.write(b'data: {"choices": [{"delta": {"content": "one "}}]}\n\n')
            await asyncio.sleep(0.0005)
        if "stream_options" in body:
            await reply.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        await reply.write(b"data: [DONE]\n\n")


@pytest.fixture
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    made = StandIn(getattr(request, "param", ""))
    monkeypatch.setattr(LitellmAdministration, "settle_s", 0.1)
    monkeypatch.setenv("GATEWAY_KEY", "key-0")
    yield made
    made.server.stop()


def run(stand_in: StandIn, **changes: Any) -> ConformanceReport:
    given: dict[str, Any] = {"admin": "litellm", "embeddings": "e=1", "model": "m", "requests": 24, "price": "1:4"}
    given |= {"cache_price": "0.1:1.25:2"}
    try:
        return conformance(stand_in.server.url, options=ConformanceOptions(key_env="GATEWAY_KEY", **given | changes))
    except ReconcileError as error:
        assert error.code == "AW-REC-41"
        found = error.result
        assert isinstance(found, ConformanceReport)
        return found


def verdicts(report: ConformanceReport) -> dict[str, str]:
    return {case.case: case.verdict for case in report.cases}


def test_a_correct_gateway_passes(stand_in: StandIn) -> None:
    report = run(stand_in)
    passed = dict.fromkeys((*EDGES, *CACHES, *OTHERS), "ok")
    assert verdicts(report) == passed | dict.fromkeys(FILES, "skipped")
    assert report.overspent_usd == 0
    edge = report.cases[0]
    assert edge.budget_usd is not None and edge.recorded_usd == edge.counted_usd == pytest.approx(
        edge.answered * 1.68e-4
    )
    assert edge.answered == int(edge.budget_usd / 1.68e-4) == 12, "half of the requests fit"


@pytest.mark.parametrize(
    ("stand_in", "cases", "verdict"),
    [
        ("ignores budgets", EDGES, "overspent"),
        ("reserves nothing", (EDGES[0], *EDGES[2:]), "overspent"),
        ("never bills streams", EDGES[2:4], "overspent"),
        ("refuses early", EDGES, "refused early"),
        ("forgets who left", OTHERS[:1], "underbilled"),
        ("bills twice", OTHERS[1:2], "overbilled"),
        ("bills failures", OTHERS[2:], "overbilled"),
        ("prices caches as input", CACHES[:2], "overspent"),
        ("prices caches as input", CACHES[2:], "overbilled"),
    ],
    indirect=["stand_in"],
)
def test_each_fault_is_found(stand_in: StandIn, cases: tuple[str, ...], verdict: str) -> None:
    report = run(stand_in)
    assert {case: verdicts(report)[case] for case in cases} == dict.fromkeys(cases, verdict)
    assert (report.overspent_usd > 0) == any(one.verdict == "overspent" for one in report.cases)


@pytest.mark.parametrize(("stand_in", "verdict"), [("", "ok"), ("ignores budgets", "overspent")], indirect=["stand_in"])
def test_without_administration_one_key_is_spent(stand_in: StandIn, verdict: str) -> None:
    budget = 0.002
    stand_in.keys["key-0"] = GatewayKey(Budget(budget), [])
    report = run(stand_in, admin=None, budget_usd=budget, cache_price=None)
    spent = 1.68e-4 + 8e-4  # the first request of each model measures its tokens
    assert report.cases[0].budget_usd == pytest.approx(budget - spent)
    found = verdicts(report)
    assert {found[name] for name in CACHES} == {"skipped"}
    assert [found[name] for name in EDGES] == [verdict, "skipped", verdict, verdict, "skipped", verdict]
    assert {found[name] for name in OTHERS} == {"skipped"}
    answered = spent + sum(case.counted_usd or 0.0 for case in report.cases)
    assert report.overspent_usd == pytest.approx(max(0.0, answered - budget))


def test_a_gateway_that_cannot_be_tested_says_why(stand_in: StandIn) -> None:
    def fail(url: str = stand_in.server.url, **changes: Any) -> str:
        given: dict[str, Any] = {"key_env": "GATEWAY_KEY", "price": "1:4", "model": "m", "budget_usd": 1.0}
        with pytest.raises((ReconcileError, UsageError)) as caught:
            conformance(url, options=ConformanceOptions(**given | changes))
        return f"{caught.value.code} {caught.value.hint}"

    assert fail().startswith("AW-REC-40 check the key")
    assert fail("http://127.0.0.1:9").startswith("AW-REC-40 check that the gateway runs")
    assert fail("ftp://x").startswith("AW-REC-19")
    assert fail(key_env="NOT_SET").startswith("AW-USE-87")
    assert fail(admin="litellm").startswith("AW-USE-88")
    for wrong in (
        {"price": None},
        {"price": "1"},
        {"price": "1:-4"},
        {"embeddings": "e"},
        {"requests": 1},
        {"cache_price": "1"},
    ):
        assert fail(**wrong).startswith("AW-USE-89")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(429, reason="HTTP 429: insufficient_quota"), True),
        (Answer(400, reason="ExceededBudget: over budget"), True),
        (Answer(429, reason="HTTP 429: rate_limit_exceeded"), False),
        (Answer(200, reason=""), False),
    ],
)
def test_a_refusal_for_the_budget_is_known(answer: Answer, expected: bool) -> None:
    assert answer.over_budget == expected

"""A plan whose engines run elsewhere, from a needs file to a gateway in front of real servers with `up --engine`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api.external_engines import ExternalEngines
from archwright.contract.plan import Plan
from archwright.home import Home
from archwright.policy.usage_limits import UsageLimits
from archwright.serving.settings.config import read_config

from ..api.test_serving import Upstream
from ..command_line import error_of

pytestmark = pytest.mark.enable_socket

# Personal files stay on-premises; on-premises pools answer a part of the peak of the workload `manuals`.
NEEDS = """
version: 1
organisation: {name: Mixed Works, employees: 900, country: DE, platform_engineers: 3}
workloads:
  - name: cases
    kind: chat
    model: Phi-4-mini-instruct
    traffic:
      requests_per_second: {mean: 1.0, peak: 4.0}
      input_tokens: {mean: 900, p95: 2500}
      output_tokens: {mean: 200, p95: 500}
    slo: {preset: background}
    data: [files]
  - name: manuals
    kind: chat
    model: Phi-4
    traffic:
      requests_per_second: {mean: 1.0, peak: 40.0}
      input_tokens: {mean: 1500, p95: 4000}
      output_tokens: {mean: 300, p95: 800}
    slo: {ttft_p95_s: 2.0, tpot_p95_s: 0.06}
    data: [books]
data:
  - {name: files, size_gib: 10, sensitivity: personal, residency: [DE]}
  - {name: books, size_gib: 10, sensitivity: internal}
placement: {allow: [hybrid], clouds: [aws], site: {country: DE, power_kw: 40, rack_units: 42}}
budget: {currency: EUR, capex: 900000, per_month: 90000, horizon_months: 36}
"""
NAMES = ("cases", "manuals", "manuals-above-mean")


class Stage(NamedTuple):
    plan: Plan
    upstreams: dict[str, Upstream]
    url: str
    key: str

    def ask(self, model: str, text: str = "Hi.", **headers: str) -> tuple[int, float | None, str]:
        """Return the status, the reported cost and the model that answered."""
        before = {name: len(one.asked) for name, one in self.upstreams.items()}
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": text}]}
        said = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **headers}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), said)
        cost = None
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
                status, cost = reply.status, float(reply.headers["x-archwright-cost-usd"])
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        who = [name for name, one in self.upstreams.items() if len(one.asked) > before[name]]
        return status, cost, " ".join(who)

    def personal(self, model: str) -> tuple[int, str]:
        status, _, who = self.ask(model, **{"x-archwright-data-class": "personal"})
        return status, who


@pytest.fixture
def plan(home: Home) -> Plan:
    (home.root.parent / "needs.yaml").write_text(NEEDS)
    return api.plan("needs.yaml", output="plan.json")


@pytest.fixture
def stage(plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Stage]:
    monkeypatch.setenv("CLOUD_KEY", "sk-cloud")
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream()) for name in NAMES}
        upstreams["manuals-above-mean"].listing = 401
        engine = [f"{name}={one.url}" for name, one in upstreams.items()]
        keys = ["manuals-above-mean=CLOUD_KEY"]
        url = api.up(
            "plan.json", detach=True, port=0, elsewhere=ExternalEngines(engine=engine, key_env=keys)
        ).started.url
        stack.callback(api.down)
        (note,) = (line for line in capsys.readouterr().err.splitlines() if "upstream" in line)
        assert note.startswith("note: upstream manuals-above-mean (") and "sk-cloud" not in note
        key = api.key.create(tenant="works", limits=UsageLimits(budget_usd=1.0)).key
        yield Stage(plan, upstreams, url, key)
        for one in upstreams.values():
            one.shutdown()


def test_what_is_missing_is_named_by_the_flags_that_bring_it(plan: Plan) -> None:
    assert plan.chosen == "hybrid-aws" and sorted(pool.name for pool in plan.pools) == sorted(NAMES)
    error = error_of(
        "AW-PLAN-20", api.up, "plan.json", port=0, elsewhere=ExternalEngines(engine=["cases=http://127.0.0.1:1/v1"])
    )
    assert error.hint.endswith("up PLAN --engine manuals=URL --engine manuals-above-mean=URL")


SENSELESS: list[tuple[list[str], list[str], str]] = [
    (["cases"], [], "AW-USE-70"),
    (["cases=ftp://h/v1"], [], "AW-USE-71"),
    (["case=http://h/v1"], [], "AW-USE-72"),
    (["cases=http://h/v1"], ["manuals=CLOUD_KEY"], "AW-USE-72"),
    (["cases=http://h/v1"], ["cases=NOT_SET_ANYWHERE"], "AW-USE-72"),
    ([], ["cases=CLOUD_KEY"], "AW-USE-72"),
    (["cases=http://h/v1"], ["cases=HOME", "cases=PATH"], "AW-USE-72"),
]


def test_texts_that_make_no_sense(plan: Plan) -> None:
    for engine, key_env, code in SENSELESS:
        error_of(code, api.up, "plan.json", port=0, elsewhere=ExternalEngines(engine=engine, key_env=key_env))
    url = ["cases=http://h/v1"]
    for field, code in (("cases", "AW-USE-70"), ("manuals=top_a", "AW-USE-72"), ("cases=priority", "AW-OPS-13")):
        at = ["manuals=http://h/v1", "manuals-above-mean=http://h/v1"] if code == "AW-OPS-13" else []
        error_of(code, api.up, "plan.json", port=0, elsewhere=ExternalEngines(engine=[*url, *at], allow_field=[field]))


def test_the_gateway_waits_as_long_as_the_limit_of_a_first_token_leaves(stage: Stage, home: Home) -> None:
    """The workload `manuals` has such a limit, the workload `cases` has none."""
    endpoints = {one.workload: one for one in read_config(home.config("gateway")).endpoints}
    waits = {one.name: one.waits for one in stage.plan.workloads}
    assert waits["cases"] is None and endpoints["cases"].wait_s is None
    assert waits["manuals"] is not None and waits["manuals"].wait_s <= 2.0
    assert endpoints["manuals"].wait_s == waits["manuals"].wait_s
    assert endpoints["manuals"].overflow_wait_s == waits["manuals"].overflow_s < 2.0


def test_own_capacity_first_then_outside_and_never_with_data_of_people(stage: Stage) -> None:
    assert [process.name for process in api.status().processes] == ["gateway"]
    price = stage.plan.pool("manuals").price_per_token
    assert price is not None
    until(lambda: any("upstream manuals-above-mean (" in note for note in api.status().notes))
    status, cost, who = stage.ask("manuals")
    assert (status, who) == (200, "manuals")
    # The stand-in counts 5 tokens in and 4 out: a key with a budget is charged what the plan says they cost.
    assert cost == pytest.approx(5 * price.input_usd + 4 * price.output_usd, rel=0.001)
    (line,) = api.usage(tenant="works")
    assert (line.requests, line.cost_usd) == (1, cost)
    assert stage.personal("manuals") == (200, "manuals")
    assert stage.ask("cases")[::2] == (200, "cases")

    stage.upstreams["manuals"].shutdown()
    stage.upstreams["manuals"].server_close()
    until(lambda: stage.ask("manuals")[::2] == (200, "manuals-above-mean"))
    assert stage.upstreams["manuals-above-mean"].asked[-1][0] == "Bearer sk-cloud"
    assert stage.personal("manuals") == (503, "")
    # No header says so: detection does.
    assert stage.ask("manuals", "Write to erika.mustermann@example.org, IBAN DE89370400440532013000.")[::2] == (503, "")
    assert stage.ask("manuals")[::2] == (200, "manuals-above-mean")

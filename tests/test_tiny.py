"""The whole product in one screen: a plan, a platform, a question, a measurement, a verdict."""

from __future__ import annotations

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.home import Home
from archwright.plan.plan_file import write_plan

from .small_plans import plan_under_load


@pytest.mark.enable_socket
def test_from_a_plan_to_a_verdict(null_plan: Plan, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    path = home.root.parent / "plan.json"
    write_plan(plan_under_load(null_plan), path)
    with api.up(str(path), port=0) as platform:
        assert platform.started.key is not None
        assert "".join(api.ask("Is anybody there?", max_tokens=8))
        bench = api.bench(against=str(path))
        assert {phase.name for phase in bench.phases} == {"peak", "closed"}
        assert all(phase.failed == 0 for phase in bench.phases)
        verdicts = {d.metric: d.verdict for d in api.reconcile(str(path)).deviations}
    assert verdicts == dict.fromkeys(verdicts, "within"), verdicts
    assert api.audit.verify().whole
    assert api.status().state == "stopped"

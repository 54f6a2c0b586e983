"""Plans of the desk example on a machine that is too slow for its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.examples import read_example
from tests.plan.conftest import MACHINE

from archwright import api
from archwright.api import planning
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import cached_machine
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.errors import PlanError
from archwright.home import Home, write_json

from ..command_line import CommandLine, error_of

SLOW = replace(
    MACHINE,
    memory_bandwidth_bytes_per_s=MACHINE.memory_bandwidth_bytes_per_s.scaled(1 / 80),
    matmul_flops_per_s=MACHINE.matmul_flops_per_s.scaled(1 / 80),
    busy_share=0.75,
)


@pytest.fixture(autouse=True)
def slow_machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe_machine", lambda *_args, **_named: SLOW)


def write_needs(*changes: tuple[str, str]) -> str:
    text = read_example("desk")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path("needs.yaml").write_text(text, encoding="utf-8")
    return "needs.yaml"


def test_the_built_in_example_starts_on_a_slow_machine_and_names_the_missed_limits(home: Home) -> None:
    home.model(load_catalog().artefacts["SmolLM2-135M-Instruct"].sha256).touch()
    made = planning.load_or_make_plan(None)
    option = made.chosen_option
    assert option is not None and not option.feasible and made.pools and made.machine is not None
    assert made.machine.busy_share == 0.75
    missed = {limit.limit: limit for limit in planning.list_missed_limits(made)}
    assert set(missed) == {"assistant.ttft_p95_s", "assistant.tpot_p95_s"}
    first = missed["assistant.ttft_p95_s"]
    assert first.stated == 20.0 < first.predicted.value and first.predicted.unit == "s"
    assert first.predicted.low < first.predicted.value < first.predicted.high


def test_the_users_own_needs_are_refused_unless_best_effort_is_asked_for() -> None:
    needs = write_needs()
    for call, given in ((planning.load_or_make_plan, None), (planning.plan, needs)):
        assert "no option satisfies the needs" in error_of("AW-PLAN-03", call, given).message
    made = planning.plan(needs, output="plan.json", best_effort=True)
    assert planning.load_or_make_plan("plan.json") == made
    assert made.chosen == "this-machine" and len(planning.list_missed_limits(made)) == 2


@pytest.mark.nightly
def test_best_effort_exceeds_a_budget_and_changes_no_feasible_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe_machine", lambda *_args, **_named: MACHINE)
    made = planning.plan(write_needs(("per_month: 60", "per_month: 1")), best_effort=True)
    (missed,) = planning.list_missed_limits(made)
    assert missed.limit == "per_month" and missed.stated == 1.0 < missed.predicted.value
    assert missed.predicted.unit == "EUR/month"
    needs = write_needs()
    feasible = planning.plan(needs, best_effort=True)
    assert feasible.digest == planning.plan(needs).digest and planning.list_missed_limits(feasible) == ()


@pytest.mark.parametrize(
    "change",
    [("residency: [DE]", "residency: [FR]"), ("SmolLM2-135M-Instruct  ", "Llama-3.1-70B-Instruct  ")],
)
def test_best_effort_breaks_no_residency_and_needs_a_model_that_runs(change: tuple[str, str]) -> None:
    with pytest.raises(PlanError):
        planning.plan(write_needs(change), best_effort=True)


def test_a_probe_without_the_load_stays_readable_and_keeps_its_form(home: Home) -> None:
    old: dict[str, Any] = msgspec.to_builtins(replace(MACHINE, busy_share=None))
    assert "busy_share" not in old
    home.folder("measured")
    write_json(home.machine_facts, msgspec.convert(old, MachineFacts))
    assert cached_machine(home) == MACHINE


@pytest.mark.enable_socket
def test_up_without_arguments_starts_on_a_slow_machine(home: Home, model_home: Home, cli: CommandLine) -> None:
    for path in model_home.folder("models").glob("*.gguf"):
        home.model(path.stem).symlink_to(path.resolve())
    try:
        text = " ".join(cli.text("up --detach --port 0").split())
        assert "The plan may miss these limits" in text and "assistant.ttft_p95_s 20 s" in text
        assert "The machine was busy: other programs used 75 % of its CPU time" in text
        assert "".join(api.ask("Hello?", max_tokens=4))
    finally:
        api.down()

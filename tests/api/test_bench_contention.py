"""`bench` beside other programs: a speed is not judged, with the measured cause."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from archwright import api
from archwright.api import bench_contention
from archwright.api.bench_contention import describe_scope, measures_this_machine
from archwright.cli import show
from archwright.contract.contention import Contention
from archwright.contract.evidence import Measurement, Reconciliation
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.home import Home
from archwright.plan.plan_file import write_plan
from archwright.reconcile.bench_result import TimeWindow
from archwright.reconcile.contention import SPEED_METRICS
from archwright.reconcile.deviations import reconcile_plan
from archwright.reconcile.measurements import SourceReading, build_measurement

from ..command_line import CommandLine
from ..small_plans import make_facts, plan_under_load

SLOW_ENGINE = {"ttft_s": 0.4, "tpot_s": 0.05}


@contextmanager
def busy_loops() -> Iterator[None]:
    """Keep all processors busy with other programs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def list_speeds(result: Reconciliation) -> list[tuple[str, str]]:
    """Return verdict and reason of each predicted speed."""
    speeds = [one for one in result.deviations if one.metric in SPEED_METRICS]
    return [(one.verdict, one.evidence.rpartition("  # ")[2]) for one in speeds]


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_other_programs_stand_beside_the_verdict_of_a_slow_engine(null_plan: Plan, home: Home, tmp_path: Path) -> None:
    launch = replace(null_plan.pools[0].launch, settings=SLOW_ENGINE)
    slow = replace(null_plan, pools=(replace(null_plan.pools[0], launch=launch),))
    quiet, loaded = tmp_path / "quiet.json", tmp_path / "loaded.json"
    write_plan(replace(slow, machine=make_facts(others=0.02)), quiet)
    write_plan(plan_under_load(slow), loaded)
    with api.up(str(quiet), port=0):
        with busy_loops():
            benched = api.bench(against=str(quiet))
        again = api.reconcile(str(quiet))
        comparable = api.bench(against=str(loaded)).reconciliation
    others = benched.contention.other_share
    assert others is not None and others > 0.12
    reason = f"other programs used {others:.0%} of the processor during the bench, 2% when the plan measured"
    for verdict, said in list_speeds(benched.reconciliation):
        assert verdict == "unknown" and said.startswith(reason)
    assert list_speeds(again) == list_speeds(benched.reconciliation)
    assert again.contention == benched.contention
    assert {verdict for verdict, _ in list_speeds(comparable)} == {"worse"}


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("https://[::1]:8443/v1", True),
        ("https://models.example.org/v1", False),
        ("http://192.0.2.7:8000/v1", False),
    ],
)
def test_an_endpoint_of_this_machine_has_a_loopback_address(home: Home, url: str, local: bool) -> None:
    assert measures_this_machine(home, url) == local


def test_the_processes_of_the_home_are_on_this_machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_contention, "_list_own_processes", lambda *_: {1})
    assert measures_this_machine(home, "http://192.0.2.7:8000/v1")


def test_a_note_says_what_the_contention_does_not_tell(home: Home) -> None:
    remote, local = "https://models.example.org/v1", "http://127.0.0.1:8000/v1"
    (note,) = describe_scope(home, remote, Contention(other_share=0.4))
    assert "this client's machine only: other programs used 40% of it" in note
    (note,) = describe_scope(home, local, Contention(steal_share=0.4))
    assert note.startswith("other programs cannot be told from the processes of the endpoint")
    assert list(describe_scope(home, local, Contention(other_share=0.4))) == []


def test_predictions_with_the_same_cause_share_a_line(null_plan: Plan, cli: CommandLine) -> None:
    plan = replace(null_plan, machine=make_facts(others=0.02, frequency_hz=3e9))
    measured = Contention(other_share=0.83, steal_share=0.01, frequency_hz=2.95e9)
    found: dict[str, Measurement] = {}
    for prediction in plan.predictions:
        query = prediction.query
        window = TimeWindow(name=query.phase, started_at=0.0, ended_at=10.0)
        seen = SourceReading("gateway", window, prediction.estimate.value, 9, query.promql())
        made = build_measurement(plan.digest, prediction, seen)
        found[prediction.id] = replace(made, contention=measured)
    result = reconcile_plan(plan, found)
    text = " ".join(cli.printed(show.print_reconciliation, result).split())
    figures = "other programs 83 % (plan: 2 %), hypervisor 1 % (plan: 0 %), frequency 2.95 GHz (plan: 3 GHz)"
    assert f"contention during the bench: {figures}" in text
    names = "assistant.ttft_s.p50, assistant.tpot_s.p50, assistant.tokens_per_s.rate"
    assert f"not judged: {names}: other programs used 83% of the processor during the bench" in text

"""The rollout step by step, with real processes and a gateway whose notes the test writes."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import pytest
from tests.tools.checks import until

from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.single_machine import build_bundle
from archwright.errors import StoreError
from archwright.journal import Journal
from archwright.lifecycle import model_registry
from archwright.operate.blue_green import DRAINING_LIMIT, RETRY_S, EndpointRollouts
from archwright.operate.child_process import LaunchContext
from archwright.operate.standby import PlatformHandles
from archwright.serving.process.config_reload import ServedRevision, served_revision_file
from archwright.store import RecordTable, Store

from .conftest import BASE, ENDPOINT, Stage

pytestmark = pytest.mark.process
R = TypeVar("R")
SLEEPER = ("-c", "import signal; signal.pause()")


class Refusing(Store):
    refuse = False

    def append(self, table: RecordTable[R], rows: Sequence[R]) -> None:
        if self.refuse:
            raise StoreError("AW-STO-01", "the store refuses: database or disk is full")
        super().append(table, rows)


class Bench:
    """Rollouts of two workloads on one pool; `tick` is one step of the supervisor with an artificial clock."""

    def __init__(self, stage: Stage, plan: Plan, **changes: object) -> None:
        self.stage = stage
        self.now = 1000.0
        self.journal = io.StringIO()
        self.store = Refusing(stage.home.store_url)
        pool = replace(plan.pools[0], workloads=(ENDPOINT, "night"))
        made = build_bundle(replace(plan, pools=(pool,)), ListenerSettings(), "")
        engine, gateway = made.processes
        # A process that stands for the gateway: what matters of it is its number, and the notes the test writes.
        processes = (replace(engine, **changes), replace(gateway, argv=SLEEPER))
        self.life = os.pipe()
        context = LaunchContext("", PlatformHandles(-1, *self.life, ()), {})
        bundle, journal = replace(made, processes=processes), Journal("s", self.journal)
        self.rollouts = EndpointRollouts(bundle, stage.home, self.store, journal, context)
        self.rollouts.begin()
        while (key := self.rollouts.next_unstarted()) is not None:
            for child in self.rollouts.engines[key].children:
                child.start(self.now)
        self.rollouts.gateway.start(self.now)
        self.note(0)

    def note(self, revision: int, *leaving: str, pid: int | None = None) -> None:
        """Write the gateway's note of the revision that it serves."""
        served = ServedRevision(pid=pid or self.rollouts.gateway.pid, revision=revision, leaving=leaving)
        served_revision_file(self.stage.home).write_bytes(msgspec.json.encode(served))

    def tick(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.rollouts.step(self.now)

    def until(self, true: Callable[[], object]) -> None:
        def is_reached() -> bool:
            reached = bool(true())
            if not reached:
                self.tick()
            return reached

        until(is_reached)

    def published(self) -> bool:
        rollout = self.rollouts.rollouts[ENDPOINT]
        return rollout.revision is not None

    def arrived(self) -> int:
        """Let the current rollout finish, and return the gateway's revision."""
        self.until(self.published)
        revision = int(self.config()["revision"])
        self.note(revision, *(f"unix:{name}" for name in self.names() if name not in self.addresses()))
        self.tick()
        return revision

    def config(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.stage.home.config("gateway").read_bytes())
        return found

    def addresses(self) -> str:
        return self.stage.home.config("gateway").read_text()

    def names(self) -> list[str]:
        return [child.spec.name for child, _, _ in self.rollouts.processes() if child is not self.rollouts.gateway]

    def events(self, name: str) -> list[dict[str, str]]:
        found = [json.loads(line) for line in self.journal.getvalue().splitlines()]
        return [entry for entry in found if entry["event"] == name]

    def close(self) -> None:
        for child, _, _ in self.rollouts.processes():
            child.stop(1.0)
        self.store.close()
        for end in self.life:
            os.close(end)


@pytest.fixture
def make(stage: Stage, null_plan: Plan) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def begin(**changes: object) -> Bench:
        made.append(Bench(stage, null_plan, **changes))
        return made[-1]

    yield begin
    for bench in made:
        bench.close()


def test_the_old_engine_stays_until_this_gateway_has_let_go_of_it(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stage.change(bench.stage.version())
    bench.stage.change(bench.stage.version("night"), "night")
    bench.until(lambda: bench.config()["revision"] == 2)
    assert len(bench.names()) == 3, "one for each tuned workload, and the plan's own for both until now"
    bench.note(2, "unix:engine-assistant")
    bench.until(lambda: all(rollout.now.version for rollout in bench.rollouts.rollouts.values()))
    bench.note(2, pid=1)
    for _ in range(10):
        bench.tick()
        time.sleep(0.03)
    assert "engine-assistant" in bench.names(), "a dead gateway's note says nothing"
    bench.note(2)
    bench.until(lambda: bench.names() == ["engine-assistant.v1", "engine-night.v1"])


def test_a_request_that_never_ends_does_not_keep_an_engine_for_ever(make: Callable[..., Bench]) -> None:
    bench = make()
    for name in (ENDPOINT, "night"):
        bench.stage.change(bench.stage.version(name), name)
    bench.until(lambda: bench.config()["revision"] == 2)
    bench.note(2, "unix:engine-assistant")
    bench.until(lambda: all(rollout.now.version for rollout in bench.rollouts.rollouts.values()))
    bench.tick()
    bench.tick(bench.rollouts.layout.request_s)
    assert "engine-assistant" in bench.names()
    bench.tick(100.0)
    bench.until(lambda: "engine-assistant" not in bench.names())


def test_an_engine_that_is_late_changes_nothing(make: Callable[..., Bench]) -> None:
    bench = make(startup_deadline_s=0.0)
    version = bench.stage.version()
    bench.stage.change(version)
    bench.until(lambda: bench.rollouts.rollouts[ENDPOINT].promotion == "assistant#2")
    undone = model_registry.promotion_history(bench.store, ENDPOINT)[-1]
    assert (undone.action, undone.model, undone.previous) == ("rollback", None, version.id)
    assert "engine-assistant.v1 was not ready in 0 s" in undone.reason
    assert bench.config()["revision"] == 0
    bench.until(lambda: bench.names() == ["engine-assistant"])


def test_a_gateway_that_does_not_take_it_up(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.stage.change(bench.stage.version())
    bench.until(bench.published)
    bench.tick(100.0)
    bench.tick()
    undone = model_registry.promotion_history(bench.store, ENDPOINT)[-1]
    assert undone.by == "supervisor" and "AW-OPS-46" in undone.reason
    assert bench.config()["revision"] == 2 and ".v1" not in bench.addresses(), "it is told to stay where it was"


def test_a_store_that_refuses_is_asked_again_and_nothing_is_tried_anew(make: Callable[..., Bench]) -> None:
    bench = make(startup_deadline_s=0.0)
    bench.stage.change(bench.stage.version())
    bench.store.refuse = True
    for _ in range(8):
        bench.tick(RETRY_S)
    assert len(bench.events("rollout.stuck")) == 1, "said once"
    assert len(bench.events("rollout.began")) == 1, "engines that failed are not started over and over"
    assert bench.rollouts.rollouts[ENDPOINT].now.version == ""
    bench.store.refuse = False
    bench.until(lambda: model_registry.production_versions(bench.store) == {})
    assert bench.events("rollout.undone")[-1]["back_to"] is None


def test_versions_do_not_pile_up_in_memory(make: Callable[..., Bench]) -> None:
    """A third version waits while two earlier versions still answer; returning engines are used again."""
    bench = make()
    versions = [bench.stage.version() for _ in range(DRAINING_LIMIT + 2)]
    for version in versions[:-1]:
        bench.stage.change(version)
        bench.arrived()
    running = bench.names()
    assert len(running) == 2 + DRAINING_LIMIT
    bench.stage.change(versions[-1])
    for _ in range(5):
        bench.tick()
    assert bench.names() == running
    bench.stage.change(versions[0])
    bench.arrived()
    assert bench.rollouts.rollouts[ENDPOINT].now.version == versions[0].id and bench.names() == running
    bench.note(int(bench.config()["revision"]))
    bench.until(lambda: bench.names() == ["engine-assistant", "engine-assistant.v1"])


def test_at_the_start_it_goes_back_until_something_can_be_served(stage: Stage, make: Callable[..., Bench]) -> None:
    good, lost, worse = stage.version(), stage.version(), stage.version()
    for version in (good, lost, worse):
        stage.change(version)
    stage.home.model(lost.sha256).unlink()
    stage.home.model(worse.sha256).unlink()
    bench = make()
    assert bench.names() == ["engine-assistant.v1", "engine-assistant"]
    back = model_registry.promotion_history(stage.store, ENDPOINT)[3:]
    assert [(change.model, change.by) for change in back] == [(lost.id, "supervisor"), (good.id, "supervisor")]
    assert bench.rollouts.handle_start_failure("assistant=assistant@v1", "AW-ENG-08 it did not start")
    assert bench.names() == ["engine-assistant"] and model_registry.production_versions(stage.store) == {}
    assert not bench.rollouts.handle_start_failure("plan:assistant", "AW-ENG-08"), (
        "there is nothing behind the plan's own model"
    )
    assert {found.name: found.version for found in bench.rollouts.endpoints()} == {ENDPOINT: BASE, "night": BASE}

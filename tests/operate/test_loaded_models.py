"""Models that are loaded at run time, with null engines: aliases, memory, start on demand, and crashes."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import urlsplit

import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api.loaded_models import RunningModel
from archwright.api.model_launch import build_process
from archwright.contract.model_alias import AliasChange
from archwright.contract.plan import Plan, ProcessSpec
from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.operate.loaded_models import append_changes, read_aliases, wait_until_applied

from ..command_line import error_of
from .conftest import BASE, ENDPOINT, Clients, Stage
from .test_rollout import NULL, Said, chat

pytestmark = pytest.mark.enable_socket
GB = 1_000_000_000


class ModelStage(Stage):
    """A stage that loads models whose answers repeat one word of 12 characters."""

    def __init__(self, home: Home, plan: Plan) -> None:
        super().__init__(home, plan)
        self.words: dict[str, str] = {}

    def launch(self, model: str, *, memory: int = GB, ttft_s: float = 0.02, tpot_s: float = 0.005) -> ProcessSpec:
        word = self.words[model] = (model * 12)[:12]
        config = EngineConfig(
            engine="null",
            socket="",
            alias=model,
            slots=64,
            context_tokens=1000,
            default_max_tokens=64,
            settings={"text": f"{word} ", "ttft_s": ttft_s, "tpot_s": tpot_s},
        )
        return build_process(config, memory, 20.0)

    def load(self, model: str, *aliases: str, launch: ProcessSpec | None = None) -> tuple[AliasChange, ...]:
        made = append_changes(
            self.store, read_aliases(self.store), aliases or (model,), launch or self.launch(model), "local"
        )
        wait_until_applied(self.home, self.store, made, WAIT_S)
        return made

    def unload(self, *aliases: str) -> None:
        wait_until_applied(
            self.home, self.store, append_changes(self.store, read_aliases(self.store), aliases, None, "local"), WAIT_S
        )

    def used_at(self, model: str) -> float:
        return next(self.state().used_at[one.name] for one in self.state().processes if one.serves == model)

    def models(self) -> dict[str, str]:
        """Return the state of each loaded model."""
        return {one.model: one.state for one in running() if not one.pinned}


def running() -> list[RunningModel]:
    return [one for one in api.models.list(running=True) if isinstance(one, RunningModel)]


@pytest.fixture
def models(home: Home, null_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelStage]:
    monkeypatch.setenv("ARCHWRIGHT_MODEL_MEMORY_BYTES", str(2 * GB + 1))
    made = ModelStage(home, null_plan)
    yield made
    api.down()
    made.store.close()


@pytest.mark.nightly
def test_no_request_is_lost_while_an_alias_is_switched_and_models_share_a_limit_of_memory(models: ModelStage) -> None:
    models.up(**NULL)
    models.load("alpha", "alpha", "fast", ENDPOINT)
    models.load("beta")
    assert len(models.serving()) == 2, "aliases of a model share its engine, and the plan's own stopped"
    with Clients(models.url, models.key, 4, model="fast") as clients, Clients(models.url, models.key, 2) as others:
        clients.marks |= models.words
        others.marks |= models.words
        for turn in range(3):
            models.load(("beta", "alpha")[turn % 2], "fast", ENDPOINT)
        models.unload(ENDPOINT)
        until(lambda: others.replies[-1].version == BASE)
        until(lambda: models.used_at("beta") > models.used_at("alpha"))
    assert clients.failures == others.failures == []
    assert set(clients.versions) == {"alpha", "beta"} and set(others.versions) == {"alpha", "beta", BASE}

    models.load("gamma")
    assert models.models() == {"alpha": "unloaded", "beta": "loaded", "gamma": "loaded"}, "the least recently used left"
    assert chat(models, "alpha").version == "alpha", "a request brings it back, in the place of an idle one"
    assert list(models.models().values()).count("loaded") == 2
    loaded = [name for name, state in models.models().items() if state == "loaded"]
    with ExitStack() as requests:
        for name in loaded:
            requests.enter_context(hold_request(models, name))
        until(lambda: [one.requests_running for one in running()].count(1) == 2)
        (asleep,) = {"alpha", "beta", "gamma"} - {*loaded}
        error = error_of("AW-OPS-51", models.load, asleep, ENDPOINT)
        assert "needs 1.00 GB" in error.message and "0.00 of 2.00 GB" in error.message
        assert chat(models).version == BASE, "the workload keeps its own model"


@contextmanager
def hold_request(models: ModelStage, model: str) -> Iterator[None]:
    """Keep a model busy with a request that is cancelled after the block."""
    body = {"model": model, "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 900, "stream": True}
    with closing(http.client.HTTPConnection(urlsplit(models.url).netloc, timeout=WAIT_S)) as connection:
        headers = {"authorization": f"Bearer {models.key}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        assert connection.getresponse().status == 200
        yield


def test_an_idle_model_leaves_the_memory_and_returns_with_a_request_unless_it_cannot_start(
    models: ModelStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_MODEL_IDLE_S", "1")
    models.up(**NULL)
    models.load("alpha", "fast")
    broken = models.launch("beta", tpot_s=-1.0)
    assert "AW-ENG-06" in error_of("AW-OPS-51", models.load, "beta", "fast", launch=broken).message
    missing = replace(models.launch("beta"), config={**models.launch("beta").config, "model_sha256": "0" * 64})
    assert "is not in the home" in error_of("AW-OPS-51", models.load, "beta", "fast", launch=missing).message
    error = error_of("AW-OPS-51", models.load, "huge", launch=models.launch("huge", memory=3 * GB))
    assert "3.00 GB" in error.message and "2.00 GB" in error.message
    until(lambda: models.models() == {"alpha": "unloaded"})
    assert chat(models, "fast").version == "alpha" and models.models() == {"alpha": "loaded"}


@pytest.mark.nightly
def test_a_request_is_never_lost_to_an_engine_that_stops(models: ModelStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests arrive about when the idle time ends, so engines stop and start between and beside them."""
    monkeypatch.setenv("ARCHWRIGHT_MODEL_IDLE_S", "1")
    models.plan = replace(models.plan, gateway_workers=2)
    models.up(**NULL)
    models.load("alpha")
    with Clients(models.url, models.key, 4, model="alpha"):
        time.sleep(3.5)  # in use for longer than the idle time
        assert models.models() == {"alpha": "loaded"}
    chance, replies, starts = random.Random(7), list[Said](), set[int]()

    def ask() -> None:
        for _ in range(12):
            time.sleep(chance.uniform(0.5, 5.0))
            replies.append(chat(models, "alpha"))
            starts.update(pid for name, pid in models.pids().items() if name.startswith("model-"))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    assert [reply.version for reply in replies] == ["alpha"] * 24
    assert len(starts) > 3


@pytest.mark.nightly
def test_a_crash_loses_no_alias(models: ModelStage) -> None:
    models.load("alpha", "fast")  # before `up`, which serves it
    models.up(**NULL)
    assert Said(models, "/v1/chat/completions", {"model": "fast", "messages": []}).status == 400
    assert models.models() == {"alpha": "unloaded"}, "an invalid request starts nothing"
    for victim in ("supervisor", "model", "gateway"):
        assert chat(models, "fast").version == "alpha", victim
        before = models.pids()
        os.kill(next(pid for name, pid in before.items() if name.startswith(victim)), signal.SIGKILL)
        until(lambda: _answers(models))
    models.unload("fast")
    assert chat(models, "fast").status == 404
    until(lambda: models.models() == {})


def _answers(models: ModelStage) -> bool:
    try:
        return chat(models, "fast").version == "alpha"
    except OSError:
        return False

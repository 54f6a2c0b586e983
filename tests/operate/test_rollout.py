"""Blue/green with real processes: the promoted version is served, no request is lost, a crash changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.lifecycle import model_registry
from archwright.operate import rollout

from ..command_line import error_of
from ..engines.onnx_models import model as onnx_model
from .conftest import BASE, ENDPOINT, Clients, Stage

pytestmark = pytest.mark.enable_socket
NULL = {"ttft_s": 0.02, "tpot_s": 0.005}


class Said:
    """A reply of the gateway with any status."""

    def __init__(self, stage: Stage, path: str, body: object, **headers: str) -> None:
        given = {"authorization": f"Bearer {stage.key}", "content-type": "application/json", **headers}
        request = urllib.request.Request(f"{stage.url}{path}", data=json.dumps(body).encode(), headers=given)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
                self.status, self.headers, self.body = reply.status, reply.headers, json.load(reply)
        except urllib.error.HTTPError as error:
            self.status, self.headers, self.body = error.code, error.headers, json.load(error)

    @property
    def version(self) -> str:
        return str(self.headers["x-archwright-model"] or "")

    @property
    def text(self) -> str:
        return str(self.body["choices"][0]["message"]["content"])


def chat(stage: Stage, model: str = ENDPOINT, workload: str = "", **fields: Any) -> Said:
    body = {"model": model, "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 12, **fields}
    return Said(stage, "/v1/chat/completions", body, **({"x-archwright-workload": workload} if workload else {}))


def test_no_request_is_lost_while_versions_come_and_go(stage: Stage) -> None:
    first, second = stage.version(), stage.version()
    stage.up(**NULL)
    with Clients(stage.url, stage.key, 24).knows(first, second) as clients:
        for version in (first, second, first, None, second, None):
            answered = len(clients.replies)
            stage.switch(version)
            assert len(clients.replies) > answered, "requests are answered while versions change"
        until(lambda: len(clients.replies) > 200)
    assert clients.failures == []
    assert set(clients.versions) == {BASE, first.id, second.id}
    for reply in clients.replies[:: len(clients.replies) // 40]:
        assert api.lineage(reply.request).model == reply.version
    until(lambda: stage.serving() == {"engine-assistant": BASE})
    assert not [path.name for path in stage.home.folder("run").iterdir() if ".v" in path.name], "files of engines gone"


@pytest.mark.nightly
def test_several_changes_at_once_end_at_the_last(stage: Stage) -> None:
    """Versions that are superseded or rolled back before they are ready never answer, and their callers get an
    error."""
    first, second, third = stage.version(), stage.version(), stage.version()
    stage.up(**NULL)
    with Clients(stage.url, stage.key, 6).knows(first, second, third) as clients:
        stage.change(first)
        overtaken = stage.change(second)
        stage.change(None)
        stage.switch(third)
        stage.change(first)
        until(lambda: any(p.phase == "starting" for p in stage.state().processes))
        assert api.status().state == "running", "an engine that is on its way is no fault"
        stage.switch(third)
    assert clients.failures == []
    assert clients.versions[-1] == third.id == model_registry.production_versions(stage.store)[ENDPOINT].id
    until(lambda: stage.serving() == {"engine-assistant.v3": third.id})
    error = error_of("AW-OPS-42", rollout.wait_until_served, stage.home, stage.store, overtaken.id)
    assert "archwright models history assistant" in error.hint


def test_a_long_answer_is_finished_by_the_engine_that_began_it(stage: Stage) -> None:
    version = stage.version()
    stage.up(ttft_s=0.0, tpot_s=0.1)
    said: list[Said] = []
    for tokens in (32, 256, 1024):  # long enough on any machine to last until the new version is served
        thread = threading.Thread(target=lambda tokens=tokens: said.append(chat(stage, max_tokens=tokens)))
        thread.start()
        until(lambda: stage.running_requests("engine-assistant") == 1)
        stage.switch(version)
        new = chat(stage, max_tokens=4)
        if thread.is_alive():
            break
        stage.switch(None)
    assert new.version == version.id and thread.is_alive()
    assert stage.serving() == {"engine-assistant": BASE, "engine-assistant.v1": version.id}
    assert {p.name: p.phase for p in stage.state().processes}["engine-assistant"] == "leaving"
    thread.join()
    assert said[-1].version == BASE and version.sha256[:12] not in said[-1].text
    until(lambda: "engine-assistant" not in stage.serving())


def test_production_is_served_from_the_start_and_the_base_when_it_is_named(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = stage.version()
    stage.change(version)
    mark = version.sha256[:12]
    stage.up(**NULL)
    assert stage.serving() == {"engine-assistant.v1": version.id}
    assert [p.serves for p in api.status().processes] == [version.id, ""]
    tuned = chat(stage)
    assert (tuned.version, tuned.text.split()[0]) == (version.id, mark)
    assert chat(stage, BASE, workload=ENDPOINT).version == version.id, "who names the workload means what it serves"
    plain = chat(stage, BASE)
    assert plain.version == BASE and mark not in plain.text
    refused = chat(stage, lora=[{"id": 0, "scale": 0.0}])
    assert refused.status == 400 and refused.body["error"]["param"] == "lora"
    # Nobody there, and none known from before: the owner's key goes to the gateway alone.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = api.ask("Go on.", max_tokens=12)
    assert mark in "".join(answer) and answer.model == version.id
    assert api.lineage(answer.request).model == version.id


@pytest.mark.parametrize("victim", ["supervisor", "gateway", "candidate"])
def test_killed_in_the_middle_of_a_change(stage: Stage, victim: str) -> None:
    """Afterwards the version in production is served: the new version, or the previous one if the engine died."""
    first, second = stage.version(), stage.version()
    stage.change(first)
    stage.up(**NULL)
    change = stage.change(second)
    until(lambda: "engine-assistant.v2" in stage.serving())
    pids = stage.pids()
    os.kill(pids["engine-assistant.v2" if victim == "candidate" else victim], signal.SIGKILL)
    if victim == "supervisor":
        until(lambda: stage.pids()["supervisor"] != pids["supervisor"])
    if victim == "candidate":
        error_of("AW-OPS-40", rollout.wait_until_served, stage.home, stage.store, change.id)
        newest = model_registry.promotion_history(stage.store, ENDPOINT)[-1]
        assert (newest.action, newest.by, newest.model) == ("rollback", "supervisor", first.id)
        rollout.wait_until_served(stage.home, stage.store, newest.id)
    else:
        rollout.wait_until_served(stage.home, stage.store, change.id)
    expected = first if victim == "candidate" else second
    assert model_registry.production_versions(stage.store)[ENDPOINT].id == expected.id
    until(lambda: api.status().state == "running")
    assert chat(stage).version == expected.id
    until(lambda: list(stage.serving().values()) == [expected.id])


@pytest.mark.nightly
def test_a_killed_engine_comes_back_with_its_version_and_so_does_the_gateway(stage: Stage) -> None:
    version = stage.version()
    stage.up(**NULL)
    stage.switch(version)
    for victim in ("engine-assistant.v1", "gateway"):
        old = stage.pids()[victim]
        os.kill(old, signal.SIGKILL)
        until(lambda victim=victim, old=old: stage.pids()[victim] != old)  # type: ignore[misc]
        until(lambda: api.status().state == "running")
        assert chat(stage).version == version.id


def test_a_classifiers_endpoint_comes_and_goes(stage: Stage) -> None:
    stage.up(**NULL)
    good = stage.version("wear", task="tabular-classifier", data=onnx_model().SerializeToString())
    bad = stage.version("wear", task="tabular-classifier", data=b"not a model")
    inputs = {"inputs": [[1, 2, 3], [-1, -2, -3]]}
    assert Said(stage, "/v1/predict/wear", inputs).status == 404
    stage.switch(good, "wear")
    found = Said(stage, "/v1/predict/wear", inputs)
    assert (found.status, found.version) == (200, good.id)
    assert [one["label"] for one in found.body["predictions"]] == ["high", "low"]
    assert api.lineage(found.headers["x-request-id"]).model == good.id
    assert "AW-ENG-" in error_of("AW-OPS-40", stage.switch, bad, "wear").message
    assert Said(stage, "/v1/predict/wear", inputs).version == good.id
    stage.switch(None, "wear")
    assert Said(stage, "/v1/predict/wear", inputs).status == 404
    until(lambda: stage.serving() == {"engine-assistant": BASE})
    assert chat(stage).version == BASE


def test_what_cannot_be_served_is_rolled_back_with_the_reason(stage: Stage) -> None:
    """The rollback happens while the platform runs; `up` never serves another model instead."""
    version = stage.version()
    file = stage.home.model(version.sha256)
    data = file.read_bytes()
    stage.up(**NULL)
    file.unlink()
    assert "not in the home" in error_of("AW-OPS-40", stage.switch, version).message
    assert model_registry.production_versions(stage.store) == {} and chat(stage).version == BASE
    elsewhere = stage.version("poet")
    error_of("AW-OPS-43", stage.switch, elsewhere, "poet")
    assert api.status().notes == ("poet@v1 is in production, but this plan has no workload poet",)
    api.down()
    stage.change(version)
    assert "archwright models rollback assistant" in error_of("AW-OPS-44", stage.up, **NULL).hint
    file.write_bytes(data)
    stage.up(**NULL)
    assert chat(stage).version == version.id


def test_without_a_platform_nobody_waits(stage: Stage) -> None:
    rollout.wait_until_served(stage.home, stage.store, stage.change(stage.version()).id, 0.0)
    error_of("AW-MOD-21", rollout.wait_until_served, stage.home, stage.store, "assistant#9")

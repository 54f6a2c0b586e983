"""A platform with the real engine and the real small model: blue/green with a random adapter, a killed supervisor."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import gguf
import numpy as np
import pytest
from tests.tools.checks import WAIT_S, until
from tests.tools.client_threads import ClientThreads

from archwright import api
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Launch, Plan
from archwright.contract.record import replace
from archwright.home import Home

from ..command_line import error_of
from ..processes import naming
from .conftest import Stage

pytestmark = pytest.mark.enable_socket
ARTEFACT = load_catalog().artefacts["SmolLM2-135M-Instruct"]
LAYERS, WIDTH, LOUD = 30, 576, 0.02


def write_adapter(path: Path, seed: int) -> bytes:
    """Write an adapter of rank 1 for every attention output; the engine scales it by alpha / rank = 1."""
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    for layer in range(LAYERS):
        name = f"blk.{layer}.attn_output.weight"
        writer.add_tensor(f"{name}.lora_a", chance.normal(size=(1, WIDTH)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (LOUD * chance.normal(size=(WIDTH, 1))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


class Askers(ClientThreads):
    """Clients of a real engine, half of them streaming, with the answers of each version and the failures."""

    def __init__(self, stage: Stage, count: int) -> None:
        super().__init__(count)
        self.said: dict[str, set[str]] = defaultdict(set)
        self._stage = stage

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            version, text = ask(self._stage, "assistant", number % 2 == 0)
            if text:
                self.said[version].add(text)
            else:
                self.failed.append(version)


def ask(stage: Stage, model: str, stream: bool) -> tuple[str, str]:
    """Return the version and the text of an answer; nothing for an incomplete answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Name a colour of the rainbow."}],
        "max_tokens": 6,
        "temperature": 0,
        "stream": stream,
    }
    headers = {"authorization": f"Bearer {stage.key}"}
    connection = http.client.HTTPConnection(urlsplit(stage.url).netloc, timeout=WAIT_S)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    data = reply.read().decode()
    version = reply.getheader("x-archwright-model") or f"{reply.status} {data}"
    connection.close()
    if reply.status != 200 or (stream and not data.endswith("data: [DONE]\n\n")):
        return version, ""
    if not stream:
        return version, str(json.loads(data)["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in data.split("\n\n") if line.startswith("data: {")]
    return version, "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@pytest.fixture
def real_plan(null_plan: Plan, home: Home, model_home: Home) -> Plan:
    home.model(ARTEFACT.sha256).symlink_to(model_home.model(ARTEFACT.sha256))
    pool = replace(
        null_plan.pools[0],
        model="smol",
        slots=4,
        context_tokens=256,
        artefact=ARTEFACT,
        launch=Launch(engine="llamacpp", settings={"threads": 1}),
    )
    return replace(null_plan, pools=(pool,))


@pytest.mark.nightly
def test_a_real_adapter_comes_and_goes(stage: Stage, real_plan: Plan, tmp_path: Path) -> None:
    version = stage.version(data=write_adapter(tmp_path / "a.gguf", 1))
    broken = stage.version(data=b"GGUF and nothing more")
    stage.start(real_plan)
    with Askers(stage, 4) as askers:
        until(lambda: askers.said["smol"])
        stage.switch(version)
        until(lambda: askers.said[version.id])
        error = error_of("AW-OPS-40", stage.switch, broken)
        named, plain = ask(stage, "smol", stream=True)
        stage.switch(None)
    assert "AW-ENG-05" in error.message
    assert askers.failed == []
    assert set(askers.said) == {"smol", version.id}
    assert not askers.said["smol"] & askers.said[version.id], "the adapter is heard"
    assert (named, plain in askers.said["smol"]) == ("smol", True), "and exactly gone where the base is named"


@pytest.mark.nightly
def test_a_loaded_model_outlives_its_supervisor_and_ends_with_its_platform(stage: Stage, real_plan: Plan) -> None:
    stage.start(real_plan)
    engine = stage.pids()["engine-assistant"]
    with Askers(stage, 4) as askers:
        until(lambda: askers.said["smol"])
        for _ in range(2):
            supervisor = stage.pids()["supervisor"]
            os.kill(supervisor, signal.SIGKILL)
            until(lambda killed=supervisor: stage.pids()["supervisor"] != killed and api.status().state == "running")  # type: ignore[misc]
            assert stage.pids()["engine-assistant"] == engine
    assert askers.failed == [] and stage.log("engine-assistant").count('"loading"') == 1
    os.kill(stage.state().standby_pid, signal.SIGKILL)
    os.kill(stage.pids()["supervisor"], signal.SIGKILL)
    until(lambda: naming(stage.home.root, "archwright.") == {})

"""Servers that are installed already, a row each: llama.cpp's real server, the others by their documentation only."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.conftest import SMALL_MODEL
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api.external_engines import ExternalEngines, parse_external_engines
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.deploy.single_machine import ExternalEndpoints
from archwright.home import Home
from archwright.operate.readiness_probe import find_free_port
from archwright.plan.plan_file import write_plan
from archwright.serving.settings.engine_fields import list_engines

from ..command_line import error_of

SERVER = Path(__file__).parents[1] / "tools" / "llama_server.py"
INSTALLED = ("llama-server", "ollama", "sglang")
INSTALLED_ROWS = [load_catalog().engines[name] for name in INSTALLED]


def parse(plan: Plan, text: str) -> ExternalEndpoints:
    return parse_external_engines(plan, ExternalEngines(engine=[text]))["assistant"]


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=WAIT_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture
def port(model_home: Home) -> Iterator[int]:
    """The port of llama.cpp's server, whose own name of the model is `tiny`."""
    port = find_free_port("127.0.0.1")
    options = [f"--model={model_home.model(SMALL_MODEL.sha256)}", "--alias=tiny", f"--port={port}", "--metrics"]
    command = [sys.executable, str(SERVER), *options, "--ctx-size=512"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until(lambda: is_up(port))
        yield port
        run.communicate()


@pytest.mark.enable_socket
def test_the_real_server_answers_behind_the_gateway_with_its_fields_and_series(
    port: int, home: Home, null_plan: Plan, tmp_path: Path
) -> None:
    write_plan(null_plan, tmp_path / "plan.json")
    elsewhere = ExternalEngines(engine=[f"assistant=llama-server:http://127.0.0.1:{port}/v1#tiny"])
    with api.up(str(tmp_path / "plan.json"), detach=True, port=0, elsewhere=elsewhere) as platform:
        assert "".join(api.ask("What is the capital of France?", max_tokens=8)).strip()
        key = api.key.create(tenant="acme").key
        statuses = []
        for field in ({"mirostat": 0}, {"bad_words": ["x"]}):
            body = {"model": "assistant", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi."}], **field}
            said = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            url = f"{platform.started.url}/v1/chat/completions"
            try:
                with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), said)) as reply:
                    statuses.append(reply.status)
            except urllib.error.HTTPError as error:
                with error:
                    statuses.append(error.code)
    assert statuses == [200, 400]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        page = reply.read().decode()
    names = [row.series for row in load_catalog().engine_metrics if row.engine == "llama-server" and row.covers("")]
    assert names and all(f"\n{series} " in page for series in names)


def test_a_kind_alone_is_the_server_at_its_usual_port_with_its_request_fields(null_plan: Plan) -> None:
    for name in INSTALLED:
        row = load_catalog().engines[name]
        found = parse(null_plan, f"assistant={name}#qwen3:4b")
        assert found.urls == (f"http://127.0.0.1:{row.port}/v1",)
        assert (found.kind, found.model) == (name, "qwen3:4b")
    assert parse(null_plan, "assistant=http://h:1/v1").kind == ""
    assert "llama-server, " in (error_of("AW-USE-71", parse, null_plan, "assistant=lmstudio").hint or "")


def test_each_row_says_how_it_is_watched_and_limited() -> None:
    assert set(INSTALLED) < set(list_engines())
    for row in INSTALLED_ROWS:
        assert row.openai_http and not row.embedded and row.source and row.as_of and row.health_path.startswith("/")
        assert "{slots}" in row.parallel_setting and row.licence in ("mit", "apache-2.0")
    assert load_catalog().default_engine.id == "vllm"

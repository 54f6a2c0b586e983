"""`serve --config`: the example of the documentation starts; SIGHUP reads the file again and loses no request.

The upstreams are stand-ins: they show what the gateway sends, not what the clouds accept.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.fake_provider import Place, chat_events, standing_in, whole
from tests.serving.settings.test_litellm_import import BALANCED
from tests.tools.checks import WAIT_S, until

from archwright.errors import UsageError
from archwright.home import Home
from archwright.operate.gateway_record import list_upstream_problems
from archwright.serving.settings.litellm_import import import_litellm_config

from ..command_line import CommandLine
from .test_serving import Shell, chat

pytestmark = pytest.mark.enable_socket
DOCUMENT = Path(__file__).parents[2] / "docs" / "gateway.md"
KEYS = ("AZURE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_BEARER_TOKEN_BEDROCK")
CLOUDS = """\
admin_port: 1
models:
  deployed:
    aliases: [old-name]
    upstreams: [{provider: azure, endpoint: HOST, deployment: d-1, api_version: 2024-10-21, key: env:AZURE_API_KEY}]
  deployed-v1:
    upstreams: [{provider: azure, endpoint: HOST, deployment: d-2, key: env:AZURE_API_KEY}]
  rock:
    upstreams: [{provider: bedrock, region: eu-central-1, endpoint: HOST, model: openai.m-1, key: env:OPENAI_API_KEY}]
  peak:
    upstreams:
      - {provider: vertex, project: p-1, location: l-1, endpoint: HOST, model: google/g, key: {command: [gcloud]}}
"""
SENT = {
    "deployed": ("/openai/deployments/d-1/chat/completions?api-version=2024-10-21", "d-1", "api-key", "azure_api_key"),
    "old-name": ("/openai/deployments/d-1/chat/completions?api-version=2024-10-21", "d-1", "api-key", "azure_api_key"),
    "deployed-v1": ("/openai/v1/chat/completions", "d-2", "api-key", "azure_api_key"),
    "rock": ("/openai/v1/chat/completions", "openai.m-1", "authorization", "Bearer openai_api_key"),
    "peak": (
        *("/v1/projects/p-1/locations/l-1/endpoints/openapi/chat/completions", "google/g"),
        *("authorization", "Bearer token-of-program"),
    ),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


class Gateway:
    """A running `serve --config`. `log` has its standard error."""

    def __init__(self, shell: Shell, file: Path, log: Path) -> None:
        command = [sys.executable, "-P", "-m", "archwright", "serve", "--config", str(file), "--port", "0", "--json"]
        self.file, self.log = file, log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=shell.environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        shell.serving.append(self.process)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline() or json.dumps({"url": log.read_text(), "key": ""}))
        self.url, self.key = ready["url"], ready["key"]

    def reload(self, text: str, event: str) -> Any:
        """Write the file, send SIGHUP, and return the next `event` of the log."""
        before = len(self.events(event))
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: len(self.events(event)) > before)
        return self.events(event)[-1]

    def events(self, event: str) -> list[Any]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def list_models(self) -> list[str]:
        request = urllib.request.Request(f"{self.url}/v1/models", headers={"authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            return [model["id"] for model in json.loads(reply.read())["data"]]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with the example of the documentation, and a `gcloud` that prints a token."""
    shell = Shell(tmp_path / "home")
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho token-of-program\n")
    program.chmod(0o755)
    shell.environment["PATH"] = f"{program.parent}:{shell.environment['PATH']}"
    shell.environment |= {name: name.lower() for name in KEYS}
    (example,) = re.findall(r"```yaml\n(port: 8470\n.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "gateway.yaml"
    file.write_text(example.replace("workers: 2", "workers: 1"))
    yield Gateway(shell, file, tmp_path / "log")
    while shell.serving:
        shell.stop()


@pytest.fixture
def place() -> Iterator[Place]:
    with standing_in() as made:
        end = {"index": 0, "delta": {"content": "word"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 1}
        made.script.pieces = chat_events({"choices": [end]}, {"choices": [], "usage": usage})
        made.gets = {"/openai/v1/models": whole({"data": [{"id": "base"}]})}
        yield made


def answers(gateway: Gateway, **fields: Any) -> Callable[[], bool]:
    return lambda: chat(gateway.url, gateway.key, **fields)[0] == 200


def test_a_file_is_served_and_read_again(gateway: Gateway, place: Place, tmp_path: Path) -> None:
    assert {"assistant", "gpt-4o", "claude-sonnet", "small", "gemini"} <= set(gateway.list_models())
    text = CLOUDS.replace("HOST", place.url.removesuffix("/v1"))
    assert gateway.reload(text, "restart needed")["fields"] == ["admin_port"]
    until(lambda: "old-name" in gateway.list_models())
    home, name = Home(tmp_path / "home"), f"serve-{gateway.url.rpartition(':')[2]}"

    def list_reported() -> set[str]:
        """The upstreams at the stand-in whose problem is reported; a list of base models names no deployment."""
        return {problem.split()[1] for problem in list_upstream_problems(home, name) if "127.0.0.1" in problem}

    until(list_reported)
    assert list_reported() == {"rock"}
    for model, (path, engine_model, header, value) in SENT.items():
        until(answers(gateway, model=model))
        sent = place.last
        assert (sent.path, sent.body["model"], sent.headers[header]) == (path, engine_model, value), model
        assert len({"authorization", "api-key"} & sent.headers.keys()) == 1

    program, script = tmp_path / "bin" / "gcloud", place.script
    program.write_text(program.read_text().replace("token-of-program", "token-of-program-2"))
    place.script = whole({"error": {"message": "expired"}}, 401)
    assert chat(gateway.url, gateway.key, model="peak")[0] != 200
    place.script = script
    until(lambda: answers(gateway, model="peak")() and place.last.headers["authorization"][-2:] == "-2")

    refused = gateway.reload(text.replace("deployment: d-1", "deploymet: d-1"), "reload failed")
    assert refused["where"] == {"file": str(gateway.file), "line": 5, "field": "models.deployed.upstreams[0].deploymet"}
    assert refused["nearest"][0] == "deployment"
    refused = gateway.reload(text.replace("env:AZURE", "env:NO"), "reload failed")
    assert refused["code"] == "AW-OPS-15" and refused["where"]["line"] == 5
    assert answers(gateway, model="old-name")(), "the old configuration stays"
    assert "token-of-program" not in gateway.log.read_text()

    statuses: Counter[int] = Counter()
    stopping = threading.Event()

    def keep_calling() -> None:
        while not stopping.is_set():
            statuses[chat(gateway.url, gateway.key, model="deployed")[0]] += 1

    callers = [threading.Thread(target=keep_calling) for _ in range(2)]
    for caller in callers:
        caller.start()
    changed = text.replace("old-name", "new-name").replace("d-1,", "d-9,").replace("env:AZURE_API_KEY", "env:HOME")
    gateway.reload(changed, "reloaded")
    until(lambda: place.last.path.startswith("/openai/deployments/d-9/"))
    stopping.set()
    for caller in callers:
        caller.join()
    assert statuses.keys() == {200} and statuses.total() > 1
    until(lambda: "new-name" in (names := gateway.list_models()) and "old-name" not in names)
    imported, _left_out = import_litellm_config(write(tmp_path / "config.yaml", BALANCED))
    gateway.reload(imported, "reloaded")
    until(lambda: set(gateway.list_models()) == {"zephyr", "embed"})


@pytest.mark.parametrize("option", ["--upstream m=http://127.0.0.1:1/v1", "--cache all", "--price m=1:2"])
def test_the_file_excludes_options_of_upstreams(cli: CommandLine, tmp_path: Path, option: str) -> None:
    (tmp_path / "gateway.yaml").write_text("models: {m: {upstreams: [{url: http://127.0.0.1:1/v1}]}}")
    out, err = cli.run(f"serve --config {tmp_path}/gateway.yaml {option}", UsageError.exit_status)
    assert err.startswith("AW-USE-81") and option.split()[0] in err and out == ""

"""`archwright serve` as a real process in front of a real OpenAI server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.serving.fake_provider import standing_in, whole
from tests.tools.checks import WAIT_S, until

from archwright.api.serving import ServeOptions, _build_pools_and_endpoints
from archwright.serving.settings.config import is_outside_residency
from archwright.settings import child_environment

from ..command_line import CommandLine

pytestmark = pytest.mark.enable_socket
FAR = "m=https://models.example.org/v1"
ASKED: dict[str, Any] = {"max_tokens": 4, "messages": [{"role": "user", "content": "Hi."}]}


class Upstream(ThreadingHTTPServer):
    """Answers every request with `words` words, one per event; `asked` holds the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.words = 4
        self.listing = 404  # the status of its list of models
        self.asked: list[tuple[str | None, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""

    def do_GET(self) -> None:
        self.send_response(self.server.listing)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.headers["authorization"], body))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        words = self.server.words
        choices: list[Any] = [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]
        try:
            for _ in range(words):
                self._event({"choices": choices})
                time.sleep(0.01)
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": words}})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            return

    def _event(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found
        found.shutdown()


class Shell:
    """Runs the verb in its own home."""

    def __init__(self, home: Path) -> None:
        self.environment = child_environment({"ARCHWRIGHT_HOME": str(home), "UPSTREAM_KEY": "sk-theirs"})
        self.serving: list[subprocess.Popen[str]] = []
        self.log = home.parent / "errors"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "archwright", *words]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=WAIT_S
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def serve(self, *words: str, errors: bool = False) -> Any:
        """Start the gateway and return its ready line; with `errors`, keep what it wrote before it was ready."""
        command = [sys.executable, "-P", "-m", "archwright", "serve", *words, "--port", "0", "--json"]
        log = self.log if errors else None
        with open(log or os.devnull, "w") as stderr:
            process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.serving.append(process)
        assert process.stdout is not None
        return json.loads(process.stdout.readline())

    @property
    def errors(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        process = self.serving.pop()
        process.send_signal(signal.SIGTERM)
        status = process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()
        return status


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path / "home")
    yield made
    while made.serving:
        made.stop()


def chat(url: str, key: str, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps({**ASKED, **fields}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.read()


def test_it_serves_bills_and_ends(shell: Shell, upstream: Upstream) -> None:
    ready = shell.serve("--upstream", f"org/m:8b={upstream.url}", "--workers", "2", "--price", "org/m:8b=1:2")
    assert ready["key"].startswith("aw_") and ready["admin"] is None
    made = shell.json("key", "create", "--tenant", "sales", "--budget-usd", "1", "--rpm", "3")
    for _ in range(3):
        status, headers, body = chat(ready["url"], made["key"], model="org/m:8b")
        assert status == 200 and json.loads(body)["model"] == "org/m:8b"
    assert float(headers["x-archwright-cost-usd"]) == pytest.approx(13e-6)
    assert chat(ready["url"], made["key"], model="org/m:8b")[0] == 429
    assert [body["model"] for _key, body in upstream.asked] == ["org/m:8b"] * 3
    assert shell.stop() == 0
    # One line a day: the test may run over midnight.
    lines = shell.json("usage", "--tenant", "sales")
    used = [sum(line[name] for line in lines) for name in ("input_tokens", "output_tokens", "cost_usd")]
    assert used == [15, 12, pytest.approx(39e-6)]
    again = shell.serve("--upstream", f"m={upstream.url}")
    assert again["key"] is None, "it is shown once"
    place = urlsplit(again["url"])
    with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=WAIT_S)) as connection:
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("authorization", f"Bearer {ready['key']}")
        connection.putheader("content-length", str((4 << 20) + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413, "a body has at most 4 MiB"


def test_two_urls_of_one_model_are_replicas_and_get_its_key(shell: Shell, upstream: Upstream) -> None:
    with Upstream() as other:
        urls = ("--upstream", f"m={upstream.url}", "--upstream", f"m={other.url}", "--upstream", f"n={other.url}")
        ready = shell.serve(*urls, "--key-env", "m=UPSTREAM_KEY")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: chat(ready["url"], ready["key"], model="m"), range(8)))
        assert len(upstream.asked) > 0 and len(other.asked) > 0 and len(upstream.asked) + len(other.asked) == 8
        assert {key for key, _body in upstream.asked + other.asked} == {"Bearer sk-theirs"}
        chat(ready["url"], ready["key"], model="n")
        assert other.asked[-1][0] is None
        other.shutdown()


def test_an_engine_that_says_more_than_was_reserved_is_cut(shell: Shell, upstream: Upstream) -> None:
    ready = shell.serve("--upstream", f"m={upstream.url}", "--price", "m=1:2")
    key = shell.json("key", "create", "--tenant", "sales", "--budget-usd", "1")["key"]
    upstream.words = 200
    status, _headers, body = chat(ready["url"], key, model="m", stream=True)
    last = json.loads(body.rpartition(b"data: ")[2])
    assert status == 200 and last["error"]["code"] == "insufficient_quota" and body.count(b"word") < 20
    status, _headers, body = chat(ready["url"], key, model="m")
    assert (status, json.loads(body)["error"]["code"]) == (429, "insufficient_quota")
    assert len(json.loads(chat(ready["url"], ready["key"], model="m")[2])["choices"][0]["message"]["content"]) > 900


def test_the_administration_listens_where_it_is_told_to(shell: Shell, upstream: Upstream) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as free:
        port = free.server_port
    ready = shell.serve("--upstream", f"m={upstream.url}", "--admin-port", str(port))
    request = urllib.request.Request(f"{ready['admin']}/tenants", headers={"authorization": f"Bearer {ready['key']}"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
        assert [one["tenant"] for one in json.loads(reply.read())["data"]] == ["default"]
    shell.stop()
    nowhere = shell.serve("--upstream", f"m={upstream.url}", "--admin-port", "0")
    assert nowhere["admin"] is None, "port 0 means the same as in the settings"


def test_status_ask_and_down_find_it(shell: Shell, upstream: Upstream, cli: CommandLine) -> None:
    """Two gateways of one home: one well, one in front of a provider that rejects its key. One is killed."""
    home = shell.environment["ARCHWRIGHT_HOME"]
    with standing_in() as keyless, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHWRIGHT_HOME", home)
        keyless.gets["/v1/models"] = whole({"error": {"message": "Incorrect API key provided: sk-theirs"}}, 401)
        first = shell.serve("--upstream", f"m={upstream.url}")
        second = shell.serve("--upstream", f"n={keyless.url}", "--key-env", "n=UPSTREAM_KEY", errors=True)
        assert "note: upstream n (127.0.0.1:" in shell.errors and "rejects the gateway's key" in shell.errors
        assert "sk-theirs" not in shell.errors
        found = cli.json("status")
        assert {(one["url"], *one["models"]) for one in found["gateways"]} == {
            (first["url"], "m"),
            (second["url"], "n"),
        }
        assert found["state"] == "running" and found["url"] in (first["url"], second["url"])
        until(lambda: "upstream n" in cli.text("status"))
        assert "word" in cli.text("ask 'Hi' --model m") and upstream.asked[-1][1]["model"] == "m"
        assert first["url"] in cli.text("down --dry-run") and second["url"] in cli.text("down --dry-run")
        killed = shell.serving.pop()
        killed.kill()
        killed.communicate()
        until(lambda: [one["url"] for one in cli.json("status")["gateways"]] == [first["url"]])
        assert "word" in cli.text("ask 'Hi'"), "the first model"
        assert first["url"] in cli.text("down")
        assert shell.serving[0].wait(WAIT_S) == 0, "it ended in order"
        assert cli.json("status")["state"] == "stopped" and "nothing" in cli.text("down")
        assert "AW-OPS-31" in cli.error("ask 'Hi'", 8)


WELL = "--upstream m=http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("", "AW-USE-70"),
        ("--upstream http://127.0.0.1:1/v1", "AW-USE-70"),
        ("--upstream m=ftp://h/v1", "AW-USE-71"),
        ("--upstream m=http://h:99999/v1", "AW-USE-71"),
        ("--upstream m=http://h/", "AW-USE-71"),
        ("--upstream m=http://a:b@h/v1", "AW-USE-71"),
        (f"{WELL} --price x=1:2", "AW-USE-72"),
        (f"{WELL} --price m=cheap", "AW-USE-72"),
        (f"{WELL} --price m=-1:2", "AW-USE-72"),
        (f"{WELL} --price m=1:1000001", "AW-USE-72"),
        (f"{WELL} --key-env m=NOT_SET_ANYWHERE", "AW-USE-72"),
        (f"{WELL} --price m=1:2 --price m=1:3", "AW-USE-72"),
        (f"{WELL} --key-env m=HOME --key-env m=PATH", "AW-USE-72"),
        (f"{WELL} --cache some", "AW-USE-73"),
        (f"{WELL} --engine-kind m=other", "AW-USE-73"),
        (f"{WELL} --engine-kind x=openai", "AW-USE-72"),
        (f"{WELL} --allow-field x=top_a", "AW-USE-72"),
        (f"{WELL} --allow-field m=priority", "AW-OPS-13"),
        (f"{WELL} --workers 0", "AW-USE-73"),
        (f"{WELL} --admin-port -1", "AW-SET-02"),
        (f"{WELL} --admin-port 65536", "AW-SET-02"),
        (f"{WELL} --host 0.0.0.0", "AW-OPS-11"),
    ],
)
def test_what_makes_no_sense_is_reported_in_three_lines(cli: CommandLine, line: str, code: str) -> None:
    out, err = cli.run(f"serve --port 0 {line}", 8 if "OPS" in code else 2)
    assert err.startswith(code) and out == "" and len(err.splitlines()) <= 3


def test_traces_go_to_the_collector_of_the_settings(shell: Shell, upstream: Upstream) -> None:
    """A tenth of 300 requests fails; by chance none fails once in 10^13 runs."""
    with standing_in() as collector:
        shell.environment["ARCHWRIGHT_OTLP_URL"] = collector.url.removesuffix("/v1")
        ready = shell.serve("--upstream", f"m={upstream.url}")
        for _ in range(300):
            assert chat(ready["url"], ready["key"], model="m")[0] == 200
            if collector.asked:
                break
        shell.stop()
        assert collector.last.path == "/v1/traces" and collector.last.body["resourceSpans"]


def test_a_port_in_use(shell: Shell, upstream: Upstream) -> None:
    done = shell.run("serve", *WELL.split(), "--port", str(upstream.server_port))
    assert done.returncode == 8 and done.stderr.startswith("AW-OPS-03")


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://vllm.models.svc.cluster.local/v1", True),
        ("https://models.example.org/v1", False),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_personal_data_do_not_go_to_an_upstream_outside(url: str, ours: bool) -> None:
    pools, endpoints = _build_pools_and_endpoints(ServeOptions(upstream=(f"m={url}",)))
    assert is_outside_residency(endpoints[0], pools[0]) is not ours
    assert not is_outside_residency(endpoints[0], pools[0], "internal")


def test_an_upstream_has_a_kind_and_gets_more_fields() -> None:
    fields = ("m=top_a", "m=messages.prefix")
    (pool,), _ = _build_pools_and_endpoints(ServeOptions(upstream=(FAR,), engine_kind=("m=vllm",), allow_field=fields))
    assert (pool.engine, pool.allow_fields) == ("vllm", ("top_a", "messages.prefix"))
    assert {"bad_words", "top_a"} <= pool.field_rules["chat"].fields.keys()

"""The Prometheus client against a test server that responds like Prometheus 2.53."""

from __future__ import annotations

import base64
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from tests.tools.checks import WAIT_S

from archwright.errors import ReconcileError, UsageError
from archwright.monitor.metrics.prometheus import PrometheusClient

pytestmark = pytest.mark.enable_socket


class Server(ThreadingHTTPServer):
    """`answer` is (status, body); requests are kept."""

    answer: tuple[int, bytes] = (200, b"")
    wait: threading.Event | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the closed connection of a client that timed out."""

    def yields(self, kind: str, result: Any) -> None:
        body = {"status": "success", "data": {"resultType": kind, "result": result}}
        self.answer = (200, msgspec.json.encode(body))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.asked.append((self.path, urllib.parse.parse_qs(body), dict(self.headers)))
        if self.server.wait is not None:
            self.server.wait.wait(WAIT_S)
        status, answer = self.server.answer
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def refusal(server: Server) -> ReconcileError:
    with pytest.raises(ReconcileError) as caught:
        PrometheusClient(server.url).query_instant("up")
    assert caught.value.code == "AW-REC-02"
    assert len(caught.value.lines().splitlines()) == 3
    return caught.value


def test_a_vector_of_one_is_its_number(server: Server) -> None:
    server.yields("vector", [{"metric": {}, "value": [1700000000.1, "0.25"]}])
    query = 'sum(rate(x{a="b"}[5m]))'
    assert PrometheusClient(server.url + "/").query_instant(query) == 0.25
    path, fields, headers = server.asked[0]
    assert (path, fields) == ("/api/v1/query", {"query": [query]})
    assert "Authorization" not in headers


def test_a_scalar_and_a_time(server: Server) -> None:
    server.yields("scalar", [1700000000, "3"])
    assert PrometheusClient(server.url + "/prefix").query_instant("scalar(x)", at=1700000000.5) == 3.0
    path, fields, _ = server.asked[0]
    assert (path, fields["time"]) == ("/prefix/api/v1/query", ["1700000000.5"])


@pytest.mark.parametrize("result", [*([{"metric": {}, "value": [1, text]}] for text in ("NaN", "+Inf", "-Inf")), []])
def test_an_empty_vector_and_what_is_no_number_are_none(server: Server, result: list[Any]) -> None:
    server.yields("vector", result)
    assert PrometheusClient(server.url).query_instant("x") is None


@pytest.mark.parametrize(
    ("kind", "result", "reason"),
    [
        ("vector", [{"value": [1, "1"]}, {"value": [1, "2"]}], "2 series"),
        ("matrix", [], "a matrix"),
        ("string", [1, "x"], "a string"),
        ("vector", [{"value": [1]}], "no number"),
        ("vector", [{"value": None}], "no number"),
        ("scalar", [1, "abc"], "no number"),
    ],
)
def test_other_answers_are_refused(server: Server, kind: str, result: Any, reason: str) -> None:
    server.yields(kind, result)
    assert reason in refusal(server).message


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b"", "HTTP 401"),
        (404, b"not found", "HTTP 404"),
        (400, b'{"status":"error","errorType":"bad_data","error":"unexpected \\"}\\""}', 'unexpected "}"'),
        (422, b'{"status":"error"}', "no reason given"),
        (503, b"starting", "HTTP 503"),
        (302, b"", "HTTP 302"),
        (200, b"<html>Grafana</html>", "not the JSON of a Prometheus server"),
        (200, b'{"status":"success"}', "has no data"),
        (200, b'{"status":7}', "not the JSON of a Prometheus server"),
        (200, b"\xff\xfe", "not the JSON of a Prometheus server"),
    ],
)
def test_bad_queries_and_other_servers_are_refused(server: Server, status: int, body: bytes, reason: str) -> None:
    server.answer = (status, body)
    assert reason in refusal(server).message


@pytest.mark.parametrize(
    ("user", "token", "sent"),
    [("", "s3cret", "Bearer s3cret"), ("ann:s3%40cret@", None, "Basic " + base64.b64encode(b"ann:s3@cret").decode())],
    ids=["token", "user and password of the URL"],
)
def test_a_secret_goes_along_and_is_never_shown(server: Server, user: str, token: str | None, sent: str) -> None:
    server.answer = (401, b"")
    prometheus = PrometheusClient(server.url.replace("://", f"://{user}"), token)
    with pytest.raises(ReconcileError) as caught:
        prometheus.query_instant("up")
    assert server.asked[0][2]["Authorization"] == sent
    assert "s3" not in caught.value.lines() and "cret" not in caught.value.lines()


def test_nobody_there(server: Server) -> None:
    with pytest.raises(ReconcileError, match="cannot be reached") as caught:
        PrometheusClient("http://127.0.0.1:1").query_instant("up")
    assert caught.value.code == "AW-REC-01"
    assert "127.0.0.1:1" in caught.value.lines()


def test_nobody_answers(server: Server) -> None:
    server.wait = threading.Event()
    with pytest.raises(ReconcileError, match="timed out") as caught:
        PrometheusClient(server.url, timeout_s=0.1).query_instant("up")
    server.wait.set()
    assert caught.value.code == "AW-REC-01"


@pytest.mark.parametrize("url", ["", "localhost:9090", "file:///etc/passwd", "ftp://host", "http://", "http:///x"])
def test_only_http_urls(url: str) -> None:
    with pytest.raises(UsageError, check=lambda error: error.code == "AW-USE-35"):
        PrometheusClient(url)

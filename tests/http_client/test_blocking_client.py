"""The blocking client: any status is a reply, no answer is NoReply, and a key stays with its host."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools.checks import WAIT_S
from tests.tools.http_server import QuietHandler, ServerThread

from archwright.http_client.blocking_client import BlockingClient, NoReply

pytestmark = pytest.mark.enable_socket

BODY = b"line 1\nline 2\n"


class _Handler(QuietHandler):
    requests: list[tuple[str, str | None, bytes]] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((f"{self.command} {self.path}", self.headers.get("X-Key"), body))
        if self.path == "/moved":
            self.send(307, b"", {"Location": "/here"})
        elif self.path == "/refused":
            self.send(418, b"a teapot")
        elif self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(BODY)
            self.close_connection = True
        else:
            self.send(200, BODY, {"X-Seen": "yes"})

    do_GET = do_POST = _answer


@pytest.fixture
def address() -> Iterator[str]:
    _Handler.requests.clear()
    server = ServerThread(_Handler)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def test_any_status_is_a_reply_and_a_long_body_is_cut(address: str) -> None:
    client = BlockingClient(WAIT_S)
    reply = client.send("POST", f"{address}/here", headers={"X-Key": "secret"}, body=b"question")
    assert (reply.status, reply.body, reply.is_cut, reply.headers["X-Seen"]) == (200, BODY, False, "yes")
    assert _Handler.requests == [("POST /here", "secret", b"question")]
    assert client.send("GET", f"{address}/refused")[0::2] == (418, b"a teapot")
    cut = client.send("GET", f"{address}/here", limit_bytes=4)
    assert (cut.body, cut.is_cut) == (b"line", True)


def test_a_redirect_is_the_answer_unless_it_is_followed_without_the_key(address: str) -> None:
    key = {"X-Key": "secret"}
    assert BlockingClient(WAIT_S).send("GET", f"{address}/moved", headers=key).status == 307
    following = BlockingClient(WAIT_S, follows_redirects=True)
    assert following.send("GET", f"{address}/moved", headers=key).body == BODY
    assert [request[:2] for request in _Handler.requests[1:]] == [("GET /moved", "secret"), ("GET /here", None)]


def test_the_proxy_of_the_environment_is_used_only_on_request(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", address)
    with pytest.raises(NoReply):
        BlockingClient(WAIT_S).send("GET", "http://127.0.0.1:1/")
    assert BlockingClient(WAIT_S, uses_proxy=True).send("GET", "http://127.0.0.1:1/").status == 200
    assert [request[0] for request in _Handler.requests] == ["GET http://127.0.0.1:1/"]


def test_a_broken_body_gives_its_lines_and_then_no_reply(address: str) -> None:
    lines: list[bytes] = []
    with BlockingClient(WAIT_S).open("GET", f"{address}/broken") as reply, pytest.raises(NoReply, match="ended early"):
        lines += reply
    assert lines == BODY.splitlines(keepends=True)
    with pytest.raises(NoReply, match="ended early"):
        BlockingClient(WAIT_S).send("GET", f"{address}/broken")
    with pytest.raises(NoReply):
        BlockingClient(WAIT_S).send("GET", "no address")


def test_a_unix_socket_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup")

        thread = threading.Thread(target=answer)
        thread.start()
        assert BlockingClient(WAIT_S, unix_socket=path).send("GET", "http://localhost/readyz").body == b"up"
        thread.join(WAIT_S)
    with pytest.raises(NoReply):
        BlockingClient(WAIT_S, unix_socket=path).send("GET", "http://localhost/readyz")

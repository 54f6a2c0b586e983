"""Alerts about budgets and upstreams: by webhook and email, once, beside the requests."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from archwright.contract.listener import AlertSpec
from archwright.policy.usage_limits import UsageLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 2e-5}


class Receiver:
    """A stand-in for the operator's webhook and mail server. `failures`: so many posts get 500 first."""

    def __init__(self, failures: int = 0) -> None:
        self.posts: list[dict[str, Any]] = []
        self.mails: list[str] = []
        self.refused = 0
        receiver = self

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if receiver.refused < failures:
                    receiver.refused += 1
                    self.send_error(500)
                    return
                receiver.posts.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Mail(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 mail\r\n")
                while line := self.rfile.readline():
                    word = line[:4].upper()
                    if word == b"DATA":
                        self.wfile.write(b"354 go\r\n")
                        receiver.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                    if word == b"QUIT":
                        return
                    self.wfile.write(b"250 ok\r\n")

        hook = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
        self._servers: list[socketserver.ThreadingTCPServer | ThreadingHTTPServer] = [hook, mail]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,)).start()

    def spec(self) -> AlertSpec:
        hook, mail = (server.server_address[1] for server in self._servers)
        senders = {"sender": "gateway@example.org", "recipients": ("ops@example.org",)}
        return AlertSpec(webhook=f"http://127.0.0.1:{hook}/hook", smtp=f"127.0.0.1:{mail}", **senders)  # type: ignore[arg-type]

    def budgets(self) -> list[tuple[str, str, float]]:
        posts = [post for post in self.posts if post["event"] == "budget"]
        return [(post["scope"], post["name"], post["threshold"]) for post in posts]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    made = Receiver(failures="budget" in request.node.name)
    yield made
    made.close()


def use_up(platform: Platform, key: str) -> None:
    for _ in range(200):
        if platform.chat(key, max_tokens=16).status == 429:
            return
    raise AssertionError("the budget has no end")


def test_a_budget_is_reported_once_at_80_and_100_percent(start: Start, receiver: Receiver) -> None:
    """Although the first post fails."""
    two = start([PRICED], [{"ttft_s": 0.0, "tpot_s": 0.0}], workers=2, alerts=receiver.spec())
    key = two.made_key("money")
    with two.keys() as keys:
        keys.set_limits("tenant", "money", "", limits=UsageLimits(budget_usd=0.01))
    use_up(two, key)
    two.until(lambda: len(receiver.posts) == 2 and len(receiver.mails) == 2)
    assert sorted(receiver.budgets()) == [("tenant", "money", 0.8), ("tenant", "money", 1.0)]
    assert receiver.refused == 1 and all(0.008 <= post["spent_usd"] <= 0.01 for post in receiver.posts)
    assert "To: ops@example.org" in receiver.mails[0] and "money" in receiver.mails[0]


@pytest.mark.nightly
def test_an_upstream_that_fails_is_reported_once(start: Start, receiver: Receiver) -> None:
    two = start([PRICED], [{}], workers=2, alerts=receiver.spec())
    two.kill_engine("null")
    two.until(lambda: len(receiver.posts) == 1 and len(receiver.mails) == 1)
    assert receiver.posts[0]["event"] == "upstream_failed" and receiver.posts[0]["upstream"] == "p: unix:null"

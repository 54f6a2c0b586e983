"""Mail of alerts: TLS from the first byte or by STARTTLS, a checked certificate, and no password without them."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from tests.serving.conftest import certified

from archwright.contract.listener import AlertSpec
from archwright.serving.process.alert_delivery import Alert, mail_alert, uses_implicit_tls

pytestmark = pytest.mark.enable_socket
ALERT = Alert("budget|tenant:a|0|10|0.8", "The budget is used to 80%.", {"event": "budget"})
ANSWERS = {
    b"EHLO": b"250-mail\r\n250 AUTH PLAIN\r\n",
    b"AUTH": b"235 welcome\r\n",
    b"DATA": b"354 go\r\n",
    b"QUIT": b"221 bye\r\n",
}
LOGIN = base64.b64encode(b"\0ops\0secret")


class MailServer(socketserver.ThreadingTCPServer):
    """A stand-in for a mail server. With `tls` it speaks TLS from the first byte. `lines`: what its clients said."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), MailSession)
        self.tls = tls
        self.lines: list[bytes] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class MailSession(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = cast(MailServer, self.server)
        with suppress(OSError):  # of a client that does not trust the certificate
            connection = server.tls.wrap_socket(self.request, server_side=True) if server.tls else self.request
            with connection, connection.makefile("rwb", 0) as stream:
                stream.write(b"220 mail\r\n")
                while line := stream.readline():
                    server.lines.append(line.strip())
                    stream.write(ANSWERS.get(line[:4].upper(), b"250 ok\r\n"))
                    if line.upper().startswith(b"DATA"):
                        server.lines += map(bytes.strip, iter(stream.readline, b".\r\n"))
                        stream.write(b"250 ok\r\n")


@contextmanager
def serving_mail(tls: ssl.SSLContext | None = None) -> Iterator[MailServer]:
    with MailServer(tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def certificate(processes: None, tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    path, key = certified(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path, key)
    return path, tls


@pytest.fixture
def login(tmp_path: Path) -> str:
    path = tmp_path / "login"
    path.write_text("ops:secret")
    path.chmod(0o600)
    return f"file:{path}"


def make_spec(smtp: str, login: str) -> AlertSpec:
    return AlertSpec(smtp=smtp, smtp_login=login, sender="gateway@example.org", recipients=("ops@example.org",))


def test_mail_goes_over_tls_from_the_first_byte(
    certificate: tuple[str, ssl.SSLContext], login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tls = certificate
    monkeypatch.setenv("SSL_CERT_FILE", path)
    with serving_mail(tls) as server:
        mail_alert(make_spec(f"smtps://{server.address}", login), ALERT)
    assert b"AUTH PLAIN " + LOGIN in server.lines
    assert b"Subject: [archwright] The budget is used to 80%." in server.lines


def test_a_mail_server_with_a_strange_certificate_gets_nothing(
    certificate: tuple[str, ssl.SSLContext], login: str
) -> None:
    with serving_mail(certificate[1]) as server, pytest.raises(ssl.SSLCertVerificationError):
        mail_alert(make_spec(f"smtps://{server.address}", login), ALERT)
    assert server.lines == []


def test_a_mail_server_without_tls_gets_no_password(login: str) -> None:
    with serving_mail() as server, pytest.raises(OSError, match="offers no TLS"):
        mail_alert(make_spec(server.address, login), ALERT)
    assert {line[:4].upper() for line in server.lines} <= {b"EHLO", b"QUIT"}


def test_port_465_means_tls_from_the_first_byte() -> None:
    assert uses_implicit_tls("mail.example.org:465") and uses_implicit_tls("smtps://mail.example.org:8465")
    assert not uses_implicit_tls("mail.example.org:587") and not uses_implicit_tls("mail.example.org:4465")

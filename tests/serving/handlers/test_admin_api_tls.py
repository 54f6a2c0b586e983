"""The administration interface behind TLS: what it answers and refuses, and a certificate renewed while it runs."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import ssl
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import Reply, certified, free_port
from tests.tools.checks import WAIT_S

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def platform(start: Start, tmp_path: Path) -> Platform:
    """Both listeners with one pair of files, which a test may renew."""
    certificate, key = certified(tmp_path)
    return start([{}], [{}], tls_certificate=certificate, tls_key=key, admin_port=free_port())


def listed(kept: http.client.HTTPConnection, key: str) -> Reply:
    kept.request("GET", "/admin/tenants", headers={"authorization": f"Bearer {key}"})
    return Reply.read(kept)


def shown(port: int | None) -> str:
    """Return the certificate that a listener shows, as PEM."""
    return ssl.get_server_certificate(("127.0.0.1", port or 0), timeout=WAIT_S)


def test_nothing_is_sent_without_tls_or_trust(platform: Platform) -> None:
    address = ("127.0.0.1", platform.config.admin_port)
    with socket.create_connection(address, WAIT_S) as plain:
        plain.sendall(
            f"GET /admin/tenants HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {platform.owner}\r\n\r\n".encode()
        )
        assert b"HTTP/1.1" not in plain.recv(1000)
    trusting = platform.context
    assert trusting is not None
    platform.context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        platform.ask("GET", "/admin/tenants", admin=True)
    with socket.create_connection(address, WAIT_S) as plain:
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as inside:
            assert inside.selected_alpn_protocol() == "http/1.1" and (inside.version() or "") >= "TLSv1.2"


def test_a_renewed_certificate_is_shown_after_a_reload(platform: Platform, tmp_path: Path) -> None:
    config, gateway = platform.config, platform.gateway
    assert gateway is not None and config.tls_certificate and config.tls_key
    ports, old = (config.port, config.admin_port), Path(config.tls_certificate).read_text()
    assert [shown(port) for port in ports] == [old, old]
    (tmp_path / "new").mkdir()
    certificate, key = certified(tmp_path / "new")

    # Half of a pair, as a renewal at work may leave it for a moment: the old one goes on.
    before = platform.workers
    shutil.copyfile(certificate, config.tls_certificate)
    gateway.send_signal(signal.SIGHUP)
    platform.until(lambda: "reload failed" in platform.home.log("gateway").read_text())
    assert [shown(port) for port in ports] == [old, old] and platform.workers == before

    with closing(platform.connection(admin=True)) as kept:
        assert listed(kept, platform.owner).status == 200
        shutil.copyfile(key, config.tls_key)
        gateway.send_signal(signal.SIGHUP)
        platform.until(lambda: [shown(port) for port in ports] == [Path(certificate).read_text()] * 2)
        last = listed(kept, platform.owner)
        while "connection" not in last.headers:  # the old worker may not have been told yet
            assert last.status == 200
            last = listed(kept, platform.owner)
        assert (last.status, last.headers["connection"]) == (200, "close"), "who is connected is served to the end"
    platform.until(lambda: not set(before) & set(platform.workers))
    with pytest.raises(ssl.SSLCertVerificationError):
        platform.ask("GET", "/admin/tenants", key=platform.owner, admin=True)
    platform.context = ssl.create_default_context(cafile=certificate)
    assert platform.ask("GET", "/admin/tenants", key=platform.owner, admin=True).status == 200
    assert platform.chat(max_tokens=1).status == 200

"""TLS of the gateway: weak cipher suites, key files that other users can read, a certificate that is about to end."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import certified, table

from archwright.errors import OperateError
from archwright.serving.settings.config import check_config
from archwright.serving.settings.engine_secrets import read_secret

from ..conftest import endpoint

if TYPE_CHECKING:
    from ..conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

DAY_S = 86_400
EXPIRATION = 'archwright_tls_certificate_expiration_timestamp_seconds{process="gateway"}'
# Suites of TLS 1.2 that a client can ask for: block ciphers in CBC mode, and key exchange without forward secrecy.
WEAK = ("ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM8")


def handshake(port: int, suites: str = "", newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> str:
    """Return the suite that the gateway chose. Raises ssl.SSLError if it accepts none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    if suites:
        context.set_ciphers(f"{suites}:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as inside:
        cipher = inside.cipher()
        assert cipher is not None
        return cipher[0]


def renew(platform: Platform, folder: Path, days: int) -> None:
    folder.mkdir()
    certificate, key = certified(folder, days=days)
    assert platform.config.tls_certificate and platform.config.tls_key
    shutil.copyfile(certificate, platform.config.tls_certificate)
    shutil.copyfile(key, platform.config.tls_key)
    platform.master.send_signal(signal.SIGHUP)


@pytest.fixture
def platform(start: Start, tmp_path: Path) -> Platform:
    certificate, key = certified(tmp_path)
    return start([{}], [], tls_certificate=certificate, tls_key=key, ready=False)


def test_weak_suites_are_refused_and_the_end_of_the_certificate_is_shown(platform: Platform, tmp_path: Path) -> None:
    for suite in WEAK:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(platform.config.port, suite, ssl.TLSVersion.TLSv1_2)
    for suite in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
        assert handshake(platform.config.port, suite, ssl.TLSVersion.TLSv1_2) == suite
    assert handshake(platform.config.port).startswith("TLS_")
    assert platform.metrics()[EXPIRATION] == pytest.approx(time.time() + 2 * DAY_S, abs=120)
    assert "the TLS certificate expires soon" in platform.home.log("gateway").read_text()

    renew(platform, tmp_path / "new", 90)
    assert platform.config.tls_certificate
    platform.context = ssl.create_default_context(cafile=platform.config.tls_certificate)

    def is_renewed() -> bool:
        try:
            return platform.metrics()[EXPIRATION] == pytest.approx(time.time() + 90 * DAY_S, abs=120)
        except ssl.SSLError:  # a worker with the old certificate answered
            return False

    platform.until(is_renewed)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o644])
def test_key_files_that_other_users_can_open_are_refused(tmp_path: Path, tls_pair: tuple[str, str], mode: int) -> None:
    key = Path(shutil.copy(tls_pair[1], tmp_path / "key.pem"))
    for wrong, allowed in ((mode, False), (0o600, True), (0o400, True)):
        key.chmod(wrong)
        config = table(endpoint(), tls_certificate=tls_pair[0], tls_key=str(key))
        (tmp_path / "engine").unlink(missing_ok=True)
        (tmp_path / "engine").write_text("sk-1")
        (tmp_path / "engine").chmod(wrong)
        if allowed:
            check_config(config)
            assert read_secret(f"file:{tmp_path}/engine") == "sk-1"
            continue
        with pytest.raises(OperateError) as caught:
            check_config(config)
        assert (caught.value.code, caught.value.hint) == ("AW-OPS-12", f"run: chmod 600 {key}")
        with pytest.raises(OperateError) as caught:
            read_secret(f"file:{tmp_path}/engine")
        assert (caught.value.code, caught.value.hint) == ("AW-OPS-15", f"run: chmod 600 {tmp_path}/engine")
        assert f"mode {mode:04o}" in caught.value.message

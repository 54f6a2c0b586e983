"""Certificates that are renewed while the gateway runs: new handshakes show them, without a signal to any process."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tests.serving.conftest import Reply, certified, free_port
from tests.tools.checks import WAIT_S

from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

DAY_S = 86_400
EXPIRATION = 'archwright_tls_certificate_expiration_timestamp_seconds{process="gateway"}'
HANDSHAKES = 6  # with each port: enough to meet both workers
LIMITS = ClientLimits(health_s=0.1)


class Pair(NamedTuple):
    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()


def make_pair(folder: Path, days: int = 2) -> Pair:
    folder.mkdir()
    return Pair(*map(Path, certified(folder, days=days)))


@pytest.fixture
def begin(start: Start) -> Callable[[Pair], Platform]:
    """A gateway with two workers and its administration port, which shows a pair of files."""

    def begin(pair: Pair) -> Platform:
        files = {"tls_certificate": str(pair.certificate), "tls_key": str(pair.key)}
        return start([{}], [{"tpot_s": 0.02}], admin_port=free_port(), workers=2, limits=LIMITS, **files)

    return begin


def list_shown(platform: Platform) -> set[str]:
    """Return the certificates, as PEM, that some handshakes with both ports show."""
    ports = (platform.config.port, platform.config.admin_port or 0)
    return {ssl.get_server_certificate(("127.0.0.1", port), timeout=WAIT_S) for port in ports * HANDSHAKES}


def count_logged(platform: Platform, text: str) -> int:
    return platform.home.log("gateway").read_text().count(text)


def await_renewal_report(platform: Platform) -> None:
    """The master reports a renewal, and no worker does; each of them sees it in its own time."""
    platform.until(lambda: count_logged(platform, "certificate renewed") > 0)
    assert count_logged(platform, "certificate renewed") == 1


def test_a_renewed_pair_is_shown_without_a_signal_and_no_connection_is_dropped(
    begin: Callable[[Pair], Platform], tmp_path: Path
) -> None:
    old, new = make_pair(tmp_path / "served"), make_pair(tmp_path / "new", days=90)
    platform = begin(old)
    workers, shown = platform.workers, old.pem
    assert list_shown(platform) == {shown}
    with closing(platform.connection()) as kept, ThreadPoolExecutor(1) as pool:
        kept.request("GET", "/readyz")
        assert Reply.read(kept).status == 200
        socket = kept.sock
        stream = pool.submit(platform.chat, max_tokens=100, ignore_eos=True)
        platform.until(lambda: platform.in_flight() == 1)

        shutil.copyfile(new.key, old.key)
        shutil.copyfile(new.certificate, old.certificate)
        platform.until(lambda: list_shown(platform) == {new.pem})

        assert stream.result(WAIT_S).status == 200
        kept.request("GET", "/readyz")
        reply = Reply.read(kept)
        assert (reply.status, kept.sock) == (200, socket), "the connection of before goes on"
        assert "connection" not in reply.headers
    assert platform.workers == workers
    await_renewal_report(platform)
    platform.context = ssl.create_default_context(cafile=str(new.certificate))
    platform.until(lambda: platform.metrics()[EXPIRATION] == pytest.approx(time.time() + 90 * DAY_S, abs=120))


def test_a_pair_that_does_not_match_keeps_the_old_one_also_in_a_worker_that_starts(
    begin: Callable[[Pair], Platform], tmp_path: Path
) -> None:
    served, new = make_pair(tmp_path / "served"), make_pair(tmp_path / "new")
    platform = begin(served)
    old = served.pem

    shutil.copyfile(new.certificate, served.certificate)
    platform.until(lambda: count_logged(platform, "certificate not renewed") > 0)
    assert list_shown(platform) == {old}
    died = platform.workers[0]
    os.kill(died, signal.SIGKILL)
    platform.until(lambda: count_logged(platform, '"listening"') == 3)
    assert list_shown(platform) == {old}
    served.key.unlink()
    platform.until(lambda: count_logged(platform, "AW-OPS-12") == 2)
    assert list_shown(platform) == {old}

    shutil.copyfile(new.key, served.key)
    platform.until(lambda: count_logged(platform, "is open to other users") == 1)
    assert list_shown(platform) == {old}, "other users could read the key since the first moment"
    served.key.chmod(0o600)
    platform.until(lambda: list_shown(platform) == {new.pem})
    assert count_logged(platform, "certificate not renewed") == 3, "each change is reported once"
    platform.context = ssl.create_default_context(cafile=str(new.certificate))
    assert platform.chat(max_tokens=1).status == 200


def test_a_mounted_secret_is_followed_through_its_symbolic_links(
    begin: Callable[[Pair], Platform], tmp_path: Path
) -> None:
    """Kubernetes writes a new folder, then renames one link; the paths of the files stay the same."""
    first, second = make_pair(tmp_path / "..v1"), make_pair(tmp_path / "..v2")
    current, following = tmp_path / "..data", tmp_path / "..data_tmp"
    current.symlink_to(first.certificate.parent.name)
    mounted = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    mounted.certificate.symlink_to("..data/cert.pem")
    mounted.key.symlink_to("..data/key.pem")
    platform = begin(mounted)
    assert list_shown(platform) == {first.pem}

    following.symlink_to(second.certificate.parent.name)
    following.replace(current)
    shutil.rmtree(first.certificate.parent)
    platform.until(lambda: list_shown(platform) == {second.pem})
    await_renewal_report(platform)
    assert count_logged(platform, "certificate not renewed") == 0

"""The gateway as the process of a container: it makes its home, and nothing shows its database's URL."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest
from tests.tools.checks import WAIT_S, until

from archwright.operate.readiness_probe import find_free_port

from .conftest import endpoint, table

pytestmark = pytest.mark.enable_socket
ENTRY = endpoint(workload="w", addresses=("unix:e",), default_max_tokens=1, context_tokens=1, slots=1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.process
def test_a_new_home_has_its_pepper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", f"sqlite:///{tmp_path}/s3cret.db")
    file, port, home = tmp_path / "gateway.json", find_free_port("127.0.0.1"), tmp_path / "volume" / "home"
    file.write_bytes(msgspec.json.encode(table(ENTRY, port=port, store_url="env:STORE")))
    command = [sys.executable, "-P", "-m", "archwright.serving", str(home), str(file)]
    log, peppers = tmp_path / "log", set[bytes]()
    for _ in range(2):  # a second start keeps the pepper
        with log.open("ab") as out:
            gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            with gateway:
                until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
                gateway.terminate()
        assert gateway.returncode == 0
        peppers.add((home / "secrets" / "pepper").read_bytes())
    assert len(peppers) == 1
    assert (tmp_path / "s3cret.db").exists() and "s3cret" not in log.read_text()


@pytest.mark.process
def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_bytes(msgspec.json.encode(table(ENTRY, port=find_free_port("127.0.0.1"), store_url="env:NO_SUCH_STORE")))
    command = [sys.executable, "-P", "-m", "archwright.serving", str(tmp_path / "home"), str(file)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 8 and "env:NO_SUCH_STORE" in done.stderr

"""The gateway as the process of a container: it makes its home, and nothing shows its database's URL."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.tools.checks import WAIT_S, until

from archwright.access.api_keys import KeyStore, load_pepper, read_pepper
from archwright.access.signed_rows import check_rows, read_signer
from archwright.access.tables import KEYS
from archwright.contract.record import replace
from archwright.home import Home, write_json
from archwright.operate.readiness_probe import find_free_port
from archwright.store import Store

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
def test_the_rows_of_an_older_home_are_signed(tmp_path: Path) -> None:
    """A container starts with the volume of an older version; without signatures it would refuse every key."""
    home, file, port = Home(tmp_path / "home"), tmp_path / "gateway.json", find_free_port("127.0.0.1")
    with closing(Store(home.store_url)) as store:
        KeyStore(store, load_pepper(home, store)).create("acme")
        store.revise(KEYS, lambda row: replace(row, prev="", mac=""))
        write_json(home.root / "schema.json", {"version": 2, "written_by": "0.2.0"})
        file.write_bytes(msgspec.json.encode(table(ENTRY, port=port)))
        command = [sys.executable, "-P", "-m", "archwright.serving", str(home.root), str(file)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as gateway:
            until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
            gateway.terminate()
        check_rows(store, read_signer(store, read_pepper(home)))
    assert not home.unsigned_rows.exists()


@pytest.mark.process
def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_bytes(msgspec.json.encode(table(ENTRY, port=find_free_port("127.0.0.1"), store_url="env:NO_SUCH_STORE")))
    command = [sys.executable, "-P", "-m", "archwright.serving", str(tmp_path / "home"), str(file)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 8 and "env:NO_SUCH_STORE" in done.stderr

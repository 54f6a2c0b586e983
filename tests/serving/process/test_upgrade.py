"""The gateway's master executes new code: its number, its ports and its running requests stay."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.tools.client_threads import ClientThreads

import archwright

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
POOL = {"price_in_usd": 1e-6, "price_out_usd": 2e-6, "slots": 64}
TOKENS = 12
OLD, NEW = 'json_reply({"status": "ok"})', 'json_reply({"status": "new"})'


class Clients(ClientThreads):
    """Clients that send plain and streamed requests, half over kept connections, half over a new one for each."""

    def __init__(self, platform: Platform, count: int = 6) -> None:
        super().__init__(count)
        self.done = 0
        self._platform = platform

    def _ask(self, number: int) -> None:
        kept, stream = number % 2 == 0, number % 3 == 0
        connection = self._platform.connection()
        fields = {"model": "m", "max_tokens": TOKENS, "stream": stream}
        body = json.dumps({**fields, "messages": [{"role": "user", "content": "Go on."}]}).encode()
        headers = {"authorization": f"Bearer {self._platform.key}"}
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/chat/completions", body, headers)
                reply = connection.getresponse()
                said = reply.read()
                if reply.status != 200 or (stream and b"[DONE]" not in said):
                    self.failed.append(f"status {reply.status}: {said[-200:]!r}")
                self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
            if not kept:
                connection.close()
        connection.close()


class Code:
    """The code that a start of Python imports; `change` replaces it by a copy with one text changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "v1").symlink_to(Path(archwright.__file__).parents[1])
        self._use("v1")

    def _use(self, version: str) -> None:
        link = self._folder / "next"
        link.symlink_to(version)
        os.replace(link, self._folder / "current")

    def change(self, module: str, old: str, new: str) -> None:
        source, target = Path(archwright.__file__).parent, self._folder / "v2" / "archwright"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        text = (target / module).read_text()
        assert old in text
        (target / module).write_text(text.replace(old, new))
        self._use("v2")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "current"))
    return Code(tmp_path)


@pytest.fixture
def platform(code: Code, start: Start) -> Platform:
    made = start([POOL], [{"tpot_s": 0.01, "slots": 64}], workers=2)
    made.until(lambda: len(made.workers) == 2)
    return made


def test_an_upgrade_under_load_drops_nothing_and_serves_the_new_code(platform: Platform, code: Code) -> None:
    number, before = platform.master.pid, set(platform.workers)
    with Clients(platform) as clients:
        platform.until(lambda: clients.done > 20)
        code.change("serving/process/routes.py", OLD, NEW)
        platform.master.send_signal(signal.SIGUSR2)
        platform.until(lambda: not before & set(platform.workers))
        asked = clients.done
        platform.until(lambda: clients.done > asked + 30)
    assert clients.failed == []
    assert platform.master.poll() is None and platform.master.pid == number and len(platform.workers) == 2
    assert "new" in platform.get("/healthz", key=None).body.decode()


def test_code_that_does_not_start_leaves_the_old_code_at_work(platform: Platform, code: Code) -> None:
    before = set(platform.workers)
    code.change("serving/process/master.py", "import os\n", "import os\nraise RuntimeError('broken')\n")
    platform.master.send_signal(signal.SIGUSR2)
    platform.until(lambda: "upgrade failed" in platform.home.log("gateway").read_text())
    assert set(platform.workers) == before and platform.chat(max_tokens=1).status == 200


@pytest.mark.nightly
def test_workers_that_do_not_start_leave_the_old_workers_at_work(platform: Platform, code: Code) -> None:
    before = set(platform.workers)
    code.change("serving/process/worker.py", "store = Store(", "raise OSError('broken')\n    store = Store(")
    platform.master.send_signal(signal.SIGUSR2)
    platform.until(lambda: "reload failed" in platform.home.log("gateway").read_text())
    assert before <= set(platform.workers) and platform.chat(max_tokens=1).status == 200

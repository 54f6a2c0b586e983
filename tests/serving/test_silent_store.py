"""A database elsewhere that is silent: nobody who waits for something else waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.tools.checks import WAIT_S

from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.process.config_reload import served_revision_file

if TYPE_CHECKING:
    from tests.serving.conftest import Start

pytestmark = pytest.mark.enable_socket


@contextmanager
def silent(url: str) -> Iterator[None]:
    """Its server and all that speak for it stand still: connections stay, and nothing is answered."""
    folder = Path(parse_qs(urlsplit(url).query)["host"][0])
    server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    stopped = [server, *map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_a_silent_database_holds_up_nothing_but_what_needs_it(start: Start, postgres_database: str) -> None:
    platform = start([{}], [{"tpot_s": 0.05, "text": "word " * 200}], store_url=postgres_database)
    plain = platform.open_chat(stream=True, max_tokens=200)
    said = plain.recv(65536)
    with silent(postgres_database):
        platform.until(lambda: platform.chat(max_tokens=1).status == 503)
        refused = platform.chat(max_tokens=1)
        assert b"AW-STO-01" not in refused.body, "no word of what stands behind"
        assert platform.get("/healthz", key=None).status == 200
        while piece := plain.recv(65536):  # its key may have been revoked, and nobody can tell
            said += piece
            if b"error" in piece:
                break
        assert b"[DONE]" not in said
    platform.until(lambda: platform.chat(max_tokens=1).status == 200)


def test_a_gateway_ends_by_itself_while_its_database_is_silent(start: Start, postgres_database: str) -> None:
    """Each worker stood before the database until it was killed."""
    platform = start([{}], [{}], store_url=postgres_database, workers=2, limits=ClientLimits(drain_s=1.0))
    # One worker answers; the master says so when both do. Before that, to be ended is to have failed to start.
    platform.until(served_revision_file(platform.home, "gateway").exists)
    for _ in range(20):
        assert platform.chat(max_tokens=1).status == 200
    with silent(postgres_database), ThreadPoolExecutor(4) as other:
        pages = [other.submit(platform.get, "/metrics", key=platform.owner) for _ in range(4)]
        platform.until(lambda: platform.chat(max_tokens=1).status == 503)
        platform.master.terminate()
        assert platform.master.wait(WAIT_S) == 0
        for page in pages:
            with suppress(OSError, HTTPException):
                page.result()
    assert platform.home.log("gateway").read_text().count('"event": "stopped"') == 2

"""Attacks on the audit log: denials that fill the disk, secrets in requests, records that say too little."""

from __future__ import annotations

import base64
import shutil
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.serving.conftest import Platform, endpoint, free_port, null_engine, running, table

from archwright.access.audit_log import AuditEntry, check_chain, read_entries
from archwright.api import audit
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.compaction import BLOCKS
from archwright.store import ColumnRange, Store

pytestmark = pytest.mark.enable_socket

CONNECTIONS, DENIALS = 50, 800
SECRET = "aw_" + "S3cr3tCanary" * 4
PROMPT = "prompt-canary-of-a-patient"


@pytest.fixture(scope="module")
def platform(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway with a second place of checkpoints beside its home."""
    folder = tmp_path_factory.mktemp("audit")
    config = table(endpoint(), port=free_port(), audit_checkpoints=str(folder / "checkpoints"))
    with running(Home(folder / "home"), config, null_engine()) as made:
        yield made


def denials(platform: Platform) -> list[AuditEntry]:
    return read_entries(platform.store, platform.home, {"effect": "deny", "key_id": ""})


def send_denials(platform: Platform, count: int) -> bytes:
    head = f"GET /v1/models HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {SECRET}\r\n"
    last = head + "connection: close\r\n\r\n"
    return platform.raw((head + "\r\n").encode() * (count - 1) + last.encode())


def test_denials_of_strangers_are_counted_and_not_written_one_by_one(platform: Platform) -> None:
    """Each 401 wrote a record of 164 B: 8,400 of them a second fill a disk."""
    said = b"".join(send_denials(platform, DENIALS // CONNECTIONS) for _ in range(CONNECTIONS))
    assert said.count(b"HTTP/1.1 401 ") == DENIALS
    platform.until(lambda: sum(one.count for one in denials(platform)) >= DENIALS)
    found = denials(platform)
    assert len(found) < DENIALS / 10, f"{len(found)} records of {DENIALS} denials"
    first = next(one for one in reversed(found) if one.count == 1 and one.reason == "unknown key")
    assert (first.source, first.outcome, first.reason) == ("127.0.0.1", "refused", "unknown key")
    assert first.request_id.encode() in said and first.action == "GET /v1/models"
    assert check_chain(platform.store, platform.home).broken is None


def test_a_gateway_delivers_its_records_to_the_second_place(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a gateway can be deleted or replaced, and `audit verify` accepted what was left."""
    delivered, second = Path(platform.config.audit_checkpoints), tmp_path / "second"
    copy = Home(tmp_path / "copy")
    reply = platform.chat()
    request_id = reply.headers["x-request-id"].encode()
    platform.until(lambda: delivered.exists() and request_id in delivered.read_bytes())
    shutil.copy(delivered, second)
    # Files of the outbox disappear when they are delivered.
    shutil.copytree(platform.home.root, copy.root, ignore=shutil.ignore_patterns("run", "ledger", "outbox"))
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(copy.root))
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", str(second))
    assert audit.verify().whole
    with closing(Store(copy.store_url)) as store:
        store.prune(BLOCKS["audit"], ColumnRange("last_at", since=0.0))
    with pytest.raises(StoreError, match=r"records? 1 .*missing in the log"):
        audit.verify()


def test_records_name_source_user_and_outcome(platform: Platform) -> None:
    with platform.keys() as keys:
        secret, _record = keys.create("acme", user="ann")
    reply = platform.chat(key=secret)
    (entry,) = platform.audited(reply.headers["x-request-id"])
    assert (entry.source, entry.user, entry.outcome) == ("127.0.0.1", "ann", "admitted")
    (entry,) = platform.audited(platform.get("/metrics", key=secret).headers["x-request-id"])
    assert (entry.source, entry.user, entry.outcome) == ("127.0.0.1", "ann", "refused")


def read_all(platform: Platform) -> bytes:
    """The bytes of every file of the home, and the records in the compressed blocks."""
    kept = [path.read_bytes() for path in platform.home.root.rglob("*") if path.is_file()]
    with closing(platform.store) as store:
        kept += [zlib.decompress(block.data) for blocks in BLOCKS.values() for block in store.rows(blocks)]
    return b"\n".join(kept)


def test_keys_and_prompts_in_a_request_reach_no_file(platform: Platform) -> None:
    """A client that puts its key or its prompt into the URL."""
    headers = {"x-canary": PROMPT, "user-agent": SECRET, "x-archwright-workload": PROMPT}
    for canary in (SECRET, PROMPT):
        for method, path in [
            ("POST", f"/v1/chat/completions/{canary}"),
            ("POST", f"/{canary}"),
            ("GET", f"/v1/models/{canary}"),
            ("POST", f"/v1/predict/{canary}"),
            ("GET", f"/v1/models?key={canary}"),
            ("GET", f"/v1/{canary}/models"),
            (canary[:32], "/v1/models"),
        ]:
            for key in ("", None, canary):
                assert platform.ask(method, path, key=key, headers=headers).status in (200, 400, 401, 404, 405)
    platform.chat(model=SECRET, user=PROMPT, metadata={"a": PROMPT})
    platform.until(lambda: b"POST /v1/... (" in read_all(platform))
    kept = read_all(platform)
    for canary in (SECRET, PROMPT):
        for form in (canary.encode(), canary[:32].encode(), base64.b64encode(canary.encode())[:-4]):
            assert form not in kept
    assert b"GET /v1/models/{}" in kept

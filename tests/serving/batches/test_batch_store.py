"""Files of a tenant: quotas, expiry, modes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from archwright.home import Home
from archwright.serving.batches import batch_store, tenant_space
from archwright.serving.batches.batch_store import ABANDONED_S, RETENTION_S, BatchStore, FileObject, result_name
from archwright.serving.batches.open_batches import list_open_batches
from archwright.serving.http.errors import ApiError

CHAT = "/v1/chat/completions"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_files_are_private_and_expire(home: Home) -> None:
    now = 1e9
    store = BatchStore(home, "acme", lambda: now)
    file = store.add_file("a", b"{}")
    store.create_batch(file.id, CHAT, "key-1", None)
    assert {path.stat().st_mode & 0o077 for path in home.batches.rglob("*")} == {0}
    now += RETENTION_S + 1
    with pytest.raises(ApiError, match="No such file"):
        store.find(FileObject, file.id)
    batch_store.remove_expired_files(home, store.path(file.id, "json").stat().st_mtime + RETENTION_S - 1)
    assert len([*home.batches.glob("*/*")]) == 5
    batch_store.remove_expired_files(home, store.path(file.id, "json").stat().st_mtime + RETENTION_S + 9)
    assert [*home.batches.glob("*/*")] == []


def test_a_tenant_cannot_fill_the_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BatchStore(home, "acme")
    file = store.add_file("a", b"1234")
    monkeypatch.setattr(tenant_space, "TENANT_BYTES", 7)
    with pytest.raises(ApiError, match="Delete files"):
        store.add_file("b", b"1234")
    BatchStore(home, "other").add_file("b", b"1234")
    with pytest.raises(ApiError, match="Delete files"):
        store.create_batch(file.id, CHAT, "key-1", None)
    monkeypatch.setattr(tenant_space, "TENANT_BYTES", 1 << 40)
    monkeypatch.setattr(batch_store, "MAX_OPEN_BATCHES", 1)
    store.create_batch(file.id, CHAT, "key-1", None)
    with pytest.raises(ApiError, match="still reads") as refused:
        store.delete_file(file.id)
    assert refused.value.status == 409
    with pytest.raises(ApiError, match="not done") as refused:
        store.create_batch(file.id, CHAT, "key-1", None)
    assert refused.value.status == 429 and len(list_open_batches(home)) == 1
    monkeypatch.setattr(batch_store, "MAX_OPEN_BATCHES", 9)
    monkeypatch.setattr(batch_store, "MAX_BATCHES", 1)
    with pytest.raises(ApiError, match="in 30 days") as refused:
        store.create_batch(file.id, CHAT, "key-1", None)
    assert refused.value.status == 429
    monkeypatch.setattr(batch_store, "MAX_BATCHES", 9)
    monkeypatch.setattr(tenant_space, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ApiError, match="no space") as refused:
        store.add_file("b", b"1234")
    assert refused.value.status == 503
    with pytest.raises(ApiError, match="no space"):
        store.create_batch(file.id, CHAT, "key-1", None)
    monkeypatch.setattr(tenant_space, "MIN_FREE_BYTES", 0)
    monkeypatch.setattr(tenant_space, "MAX_FILES", 2)
    with pytest.raises(ApiError, match="those of results"):
        store.create_batch(file.id, CHAT, "key-1", None)
    names = [path.stem for path in home.batches.glob("acme/*.jsonl")]
    assert names == [file.id], "what was refused left bytes behind"


def test_uploads_at_once_do_not_pass_the_quota_together(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check and the write are one step for all threads and processes."""
    size, fit = 1 << 20, 3
    monkeypatch.setattr(tenant_space, "TENANT_BYTES", fit * size)

    def upload(number: int) -> bool:
        try:
            BatchStore(home, "acme").add_file(f"{number}", bytes(size))
        except ApiError as error:
            assert error.openai_code == "file_quota_exceeded"
            return False
        return True

    with ThreadPoolExecutor(12) as threads:
        accepted = [*threads.map(upload, range(12))]
    assert accepted.count(True) == fit
    assert sum(path.stat().st_size for path in home.batches.glob("acme/*.jsonl")) == fit * size


def test_a_cancellation_needs_no_space(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BatchStore(home, "acme")
    batch = store.create_batch(store.add_file("a", b"{}").id, CHAT, "key-1", None)
    spare = store.path(batch.id, "spare")
    assert spare.stat().st_blocks * 512 >= batch_store.SPARE_BYTES, "the spare is not allocated"
    before = {path.name for path in home.batches.glob("acme/*")}
    store.cancel_batch(batch.id)
    assert store.find_batch(batch.id).status == "cancelling"
    after = {path.name for path in home.batches.glob("acme/*")}
    assert after == (before - {spare.name}) | {f"{batch.id}.cancel"}, "a cancellation made a new file"
    store.cancel_batch(batch.id)
    store.free_spare(batch.id)
    assert store.find_batch(batch.id).status == "cancelling" and not store.path(batch.id, "cancel").stat().st_size


def test_the_key_that_pays_is_shown_to_no_other_key(home: Home) -> None:
    store = BatchStore(home, "acme")
    batch = store.create_batch(store.add_file("a", b"{}").id, CHAT, "key-1", None)
    assert store.find_batch(batch.id, "key-1").key_id == "key-1"
    assert store.find_batch(batch.id, "key-2").key_id is None and store.find_batch(batch.id).key_id is None
    assert "outcome" not in msgspec.to_builtins(store.find_batch(batch.id, "key-1"))


def test_bytes_that_a_crash_left_are_removed(home: Home) -> None:
    """Not those of a batch whose gateway has been stopped for days."""
    store = BatchStore(home, "acme")
    file = store.add_file("a", b"{}")
    batch = store.create_batch(file.id, CHAT, "key-1", None)
    results = store.path(result_name(batch.id, "output_file_id"), "jsonl")
    upload = store.path("file-" + "0" * 31, "jsonl")
    for path in (results, upload):
        path.write_bytes(b"x")
    now = upload.stat().st_mtime
    batch_store.remove_expired_files(home, now + ABANDONED_S - 9)
    assert upload.exists()
    batch_store.remove_expired_files(home, now + ABANDONED_S + 9)
    assert (upload.exists(), results.exists(), store.path(file.id, "jsonl").exists()) == (False, True, True)


def test_ids_sort_by_time_and_are_not_guessable(home: Home) -> None:
    names = [batch_store.create_id("file-", at) for at in (1e9, 1e9 + 0.001, 1.9e9)]
    assert sorted(names) == names and len({name[-20:] for name in names}) == 3
    assert not os.path.exists(home.root), "nothing is created before an upload"

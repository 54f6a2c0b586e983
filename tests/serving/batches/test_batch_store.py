"""Files of a tenant: quotas, expiry, modes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archwright.home import Home
from archwright.serving.batches import batch_store
from archwright.serving.batches.batch_store import RETENTION_S, BatchStore, FileObject
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
    assert len([*home.batches.glob("*/*")]) == 4
    batch_store.remove_expired_files(home, store.path(file.id, "json").stat().st_mtime + RETENTION_S + 9)
    assert [*home.batches.glob("*/*")] == []


def test_a_tenant_cannot_fill_the_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BatchStore(home, "acme")
    file = store.add_file("a", b"1234")
    monkeypatch.setattr(batch_store, "TENANT_BYTES", 7)
    with pytest.raises(ApiError, match="Delete files"):
        store.add_file("b", b"1234")
    BatchStore(home, "other").add_file("b", b"1234")
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
    monkeypatch.setattr(batch_store, "TENANT_BYTES", 1 << 40)
    monkeypatch.setattr(batch_store, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ApiError, match="no space") as refused:
        store.add_file("b", b"1234")
    assert refused.value.status == 503
    with pytest.raises(ApiError, match="no space"):
        store.create_batch(file.id, CHAT, "key-1", None)


def test_ids_sort_by_time_and_are_not_guessable(home: Home) -> None:
    names = [batch_store.create_id("file-", at) for at in (1e9, 1e9 + 0.001, 1.9e9)]
    assert sorted(names) == names and len({name[-20:] for name in names}) == 3
    assert not os.path.exists(home.root), "nothing is created before an upload"

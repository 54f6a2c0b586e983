"""An operator's view of the batches of all tenants: list, show, cancel, delete, each with its audit record."""

from __future__ import annotations

from contextlib import closing

import pytest
from tests.command_line import CommandLine
from tests.serving.batches.conftest import CHAT, write_lines
from tests.serving.batches.test_locked_batch import BODY, opened

from archwright import api
from archwright.access.audit_log import read_entries
from archwright.errors import UsageError
from archwright.home import Home
from archwright.serving.batches.batch_store import BatchStore
from archwright.serving.batches.locked_batch import LineResult, LockedBatch
from archwright.store import Store


def create(home: Home, tenant: str, input_file_id: str = "") -> str:
    store = BatchStore(home, tenant)
    return store.create_batch(input_file_id or upload(home, tenant), CHAT, "key-1", None).id


def upload(home: Home, tenant: str) -> str:
    return BatchStore(home, tenant).add_file("in.jsonl", write_lines(3)).id


def finish(home: Home, batch_id: str) -> None:
    with opened(home, batch_id) as job:
        job.append(LineResult(0, job.request_id(0), 200, BODY))
        job.finish("expired", 7)


def list_acts(home: Home) -> list[tuple[str, str, str]]:
    with closing(Store(home.store_url)) as store:
        entries = read_entries(store, home)
    return [(one.action, one.resource, one.tenant) for one in reversed(entries) if one.resource]


def test_batches_of_all_tenants_are_listed_with_their_disk(home: Home, cli: CommandLine) -> None:
    first, second = create(home, "acme"), create(home, "clinic")
    finish(home, first)
    rows = cli.json("batches list")
    assert [(row["id"], row["tenant"], row["status"]) for row in rows] == [
        (first, "acme", "expired"),
        (second, "clinic", "validating"),
    ]
    stored = sum(path.stat().st_size for path in home.batches.glob("acme/*"))
    assert rows[0]["stored_bytes"] == stored and (rows[0]["total"], rows[0]["completed"]) == (3, 1)
    assert [row["id"] for row in cli.json("batches list --tenant clinic")] == [second]
    shown = cli.json(f"batches show {first}")
    assert shown["batch"] == rows[0] and shown["output_file_id"] and shown["ends_at"] is None


def test_a_batch_is_cancelled_without_a_gateway(home: Home) -> None:
    batch_id = create(home, "acme")
    assert api.batches.cancel(batch_id).status == "cancelling"
    with closing(LockedBatch(home, "acme", batch_id)) as job:
        assert job.is_cancelled
    finish(home, batch_id)
    with pytest.raises(UsageError) as refused:
        api.batches.cancel(batch_id)
    assert refused.value.code == "AW-USE-96" and "batches delete" in refused.value.hint
    assert list_acts(home) == [("batches.cancel", batch_id, "acme")]


def test_a_deleted_batch_leaves_nothing_behind(home: Home) -> None:
    batch_id = create(home, "acme")
    finish(home, batch_id)
    before = {path for path in home.batches.glob("*/*") if path.is_file()}
    planned = api.batches.delete(batch_id, dry_run=True)
    assert {path for path in home.batches.glob("*/*") if path.is_file()} == before and planned.freed_bytes > 0
    done = api.batches.delete(batch_id)
    assert (done.files, done.freed_bytes) == (planned.files, planned.freed_bytes)
    assert [path for path in home.batches.glob("*/*") if path.is_file()] == []
    assert list_acts(home) == [(act, batch_id, "acme") for act in ("batches.delete.plan", "batches.delete")]


def test_the_input_of_another_batch_stays(home: Home) -> None:
    file_id = upload(home, "acme")
    first, second = create(home, "acme", file_id), create(home, "acme", file_id)
    api.batches.delete(first)
    assert BatchStore(home, "acme").path(file_id, "jsonl").exists()
    assert [one.id for one in api.batches.list()] == [second]
    api.batches.delete(second)
    assert not BatchStore(home, "acme").path(file_id, "jsonl").exists()


def test_a_batch_that_a_gateway_runs_is_not_deleted(home: Home) -> None:
    batch_id = create(home, "acme")
    with closing(LockedBatch(home, "acme", batch_id)), pytest.raises(UsageError) as refused:
        api.batches.delete(batch_id)
    assert refused.value.code == "AW-USE-97" and batch_id in refused.value.hint
    assert [one.id for one in api.batches.list()] == [batch_id] and list_acts(home) == []


def test_an_unknown_batch_names_the_nearest(home: Home) -> None:
    batch_id = create(home, "acme")
    with pytest.raises(UsageError) as refused:
        api.batches.show(batch_id[:-1])
    assert (refused.value.code, refused.value.nearest) == ("AW-USE-95", (batch_id,))

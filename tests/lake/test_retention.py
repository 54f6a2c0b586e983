"""Retention deletes old versions with all their files, once logged, also after a failure in between."""

from __future__ import annotations

import pytest

from archwright.contract.lineage import LineageEdge
from archwright.lake import retention
from archwright.lake.governance.policy import DatasetPolicy, append_policy
from archwright.lake.retention import ExpiredVersion
from archwright.monitor import lineage

from ..tools.checks import refuses
from .temporary_lake import Lake

DAY = 86_400.0
SECRET = "anna-4711"


def state(lake: Lake, days: int) -> None:
    append_policy(lake.store, DatasetPolicy(dataset="docs", tenant="clinic", retention_days=days))


def expired(lake: Lake, now: float) -> list[str]:
    return [one.version for one in retention.find_expired_versions(lake.store, now)]


def retain(lake: Lake, now: float) -> list[str]:
    """Returns the versions for which an audit record was written."""
    acts: list[ExpiredVersion] = []
    found = retention.find_expired_versions(lake.store, now)
    retention.delete_versions(lake.home, lake.store, found, now, acts.append)
    return [one.version for one in acts]


def remains(lake: Lake) -> bool:
    files = [path for path in lake.home.lake.rglob("*") if path.is_file()]
    return any(SECRET.encode() in path.read_bytes() for path in files if "versions" not in path.parts)


@pytest.fixture
def old(lake: Lake) -> Lake:
    """docs@v1 and docs-clean@v1 with the secret, of day 0; docs@v2 without it, of day 9."""
    lake.at = 0.0
    lake.put("a.jsonl", f'{{"text": "{SECRET}"}}\n{{"text": "x"}}\n"{SECRET} is broken"\n')
    lake.ingest()
    lake.refine("[{drop-short: {characters: 4, columns: [text]}}]")
    index = lake.home.folder("lake", "indexes", "docs@v1") / "index.json"
    index.write_text(SECRET, encoding="utf-8")
    lake.at = 9 * DAY
    lake.put_rows("a.jsonl", [{"text": "new"}])
    lake.ingest()
    edges = [("model:m@v1", "trained-on"), ("run:r-1", "trained-on")]
    lineage.append_edges(
        lake.store,
        [LineageEdge(at=0.0, child=c, parent="dataset:docs@v1", relation=r) for c, r in edges],  # type: ignore[arg-type]
    )
    return lake


def test_versions_past_the_retention_of_their_data_set_are_found(old: Lake) -> None:
    assert expired(old, 10**9) == []
    state(old, 10)
    assert expired(old, 10 * DAY) == []
    assert expired(old, 10.1 * DAY) == ["docs@v1", "docs-clean@v1"]
    assert expired(old, 20 * DAY) == ["docs@v1", "docs@v2", "docs-clean@v1"]
    first = retention.find_expired_versions(old.store, 11 * DAY)[0]
    assert (first.tenant, first.models, first.runs, first.age_days) == ("clinic", ("m@v1",), ("r-1",), 11.0)


def test_a_deleted_version_leaves_no_byte_but_its_record_and_one_log_row(old: Lake) -> None:
    state(old, 10)
    assert remains(old)
    assert retain(old, 11 * DAY) == ["docs@v1", "docs-clean@v1"]
    assert not remains(old)
    assert old.values("docs", "text") == ["new"]
    with refuses("AW-DATA-44"):
        old.rows("docs@v1")
    assert retain(old, 11 * DAY) == []
    log = old.store.rows(retention.DELETIONS)
    assert [(row.version, row.reason, row.at, row.rows > 0) for row in log] == [
        ("docs@v1", "retention", 11 * DAY, True),
        ("docs-clean@v1", "retention", 11 * DAY, True),
    ]


def test_the_newest_version_is_deleted_too_and_the_data_set_goes_on(old: Lake) -> None:
    state(old, 1)
    assert retain(old, 11 * DAY) == ["docs@v1", "docs@v2", "docs-clean@v1"]
    assert old.data_files() == set()
    old.at = 11 * DAY
    again = old.ingest().version
    assert (again.id, old.values(again, "text")) == ("docs@v3", ["new"])
    assert expired(old, 11.5 * DAY) == []


def test_a_deletion_that_failed_is_completed_with_one_log_row(old: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    state(old, 10)
    with monkeypatch.context() as patch:
        patch.setattr(retention, "drop_versions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            retain(old, 11 * DAY)
    assert remains(old)
    assert retain(old, 12 * DAY) == ["docs-clean@v1"]
    assert not remains(old)
    assert [row.at for row in old.store.rows(retention.DELETIONS)] == [11 * DAY, 12 * DAY]

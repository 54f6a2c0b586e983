"""A person is planted in every store of the lake, found in each by the scan, erased, and found nowhere."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from usearch.index import Index

from archwright.access.api_keys import load_pepper
from archwright.access.audit_checkpoints import read_signing_key
from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import replace
from archwright.crypto.signing import SigningKey
from archwright.home import Home, write_json
from archwright.lake.erasure import receipt, table_rows
from archwright.lake.erasure.erasure import ErasureOutcome, ErasureRequest, erase_subject
from archwright.lake.erasure.file_scan import scan_files
from archwright.lake.erasure.lake_stores import ErasureScope, decode_shard
from archwright.lake.erasure.own_files import OwnFileDecoder, is_wal_index
from archwright.lake.erasure.subject import Subject
from archwright.lake.refinement import shards_folder
from archwright.lake.retrieval.index_builder import IndexRequest, build_index
from archwright.lake.steps import token_shards
from archwright.lake.steps.pseudonyms import load_pseudonym_key, make_pseudonym
from archwright.lake.tables import iceberg_tables, version_index
from archwright.lake.tables.dataset_lock import lock_lake
from archwright.monitor.user_names import USER_NAMES
from archwright.monitor.wal.disk_reserve import hold_reserve

from ...tools.checks import refuses
from ..retrieval.indexed_lake import ROWS, add_embedder, index
from ..temporary_lake import Lake

NAME, EMAIL = "Zoë Übel", "zoe.uebel@example.org"


def erase(lake: Lake, *identifiers: str, **more: Any) -> ErasureOutcome:
    request = ErasureRequest(identifiers or (NAME, EMAIL), now=lambda: lake.at)
    return erase_subject(lake.home, lake.store, request._replace(**more))


def find(lake: Lake, name: str) -> DatasetVersion:
    return version_index.find_version(lake.store, name)


def own_keys(home: Home) -> tuple[str, ...]:
    key = read_signing_key(home)
    assert key is not None
    return (key.public_key,)


def plant(lake: Lake) -> None:
    """Two ingested versions, a redacted one, a quarantined row, a file that is named after the person."""
    rows = [{"text": f"row {n}", "mail": f"user{n}@example.org"} for n in range(6)]
    lake.put_rows("a.jsonl", [*rows, {"text": f"signed {NAME}", "mail": "x"}, {"text": "same", "mail": EMAIL}])
    lake.put("b.jsonl", json.dumps({"text": "fine", "mail": "-"}) + f'\n{{"broken": "{EMAIL}"\n')
    lake.ingest()
    lake.put_rows(f"{EMAIL}.jsonl", [{"text": "in a file of the person", "mail": "y"}])
    lake.ingest()
    lake.refine("[{redact: {columns: [text, mail]}}, {drop-short: {characters: 5}}]")


def plant_everywhere(lake: Lake) -> set[str]:
    """Returns the places, below the home, of which each must be found on its own."""
    plant(lake)
    vocabulary = {"<end>": 0, "signed": 1, "Zoë": 2, "Übel": 3}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>"}
    tokeniser = {"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    (lake.root / "tokenizer.json").write_text(json.dumps(tokeniser))
    steps = "[{chunk: {characters: 40, overlap: 0}}]\ntoken-shards: {tokeniser: tokenizer.json, end: <end>, length: 4}"
    lake.refine(steps, into="docs-split")
    lake.refine("[{redact: {columns: [text]}}]", source="docs-split", into="docs-last")
    build_index(lake.home, IndexRequest(find(lake, "docs"), column="text"))
    home = lake.home
    planted: dict[str, Callable[[Path], object]] = {
        "lake/work/other/last/000000.parquet": lambda path: pq.write_table(pa.table({"text": [NAME]}), path),
        "lake/embeddings/data.mdb": lambda path: path.write_text(NAME, encoding="utf-8"),
        "lake/drops/docs-clean/v1.part": lambda path: path.write_text(f'"{EMAIL}"', encoding="utf-8"),
        "lake/tables/lake/never/data/v1.parquet": write_orphan,
        "lake/quarantine/never/v1.jsonl": lambda path: path.write_text(
            json.dumps({"file": "c", "row": 1, "reason": "r", "excerpt": f"{'x' * 189} zoe.uebel..."}) + "\n"
        ),
        "exports/rows.jsonl": lambda path: path.write_text(json.dumps({"who": NAME}), encoding="utf-8"),
    }
    for name, write in planted.items():
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        write(home.root / name)
    return planted.keys() - {"lake/quarantine/never/v1.jsonl"}


def write_orphan(path: Path) -> None:
    ids = pa.array([b"0" * 16], pa.binary(16))
    pq.write_table(pa.table({"record_id": ids, "text": [f"by {NAME}"]}), path, compression="zstd")


def scan(lake: Lake) -> set[str]:
    subject = Subject([NAME, EMAIL])
    scope = ErasureScope(lake.home, lake.store, subject)
    hits = scan_files(lake.home.root, subject, (lambda path, head: decode_shard(scope, path, head),)).hits
    return {hit.place for hit in hits if not hit.place.startswith("archwright.db")}


def count_removed(made: receipt.ErasureReceipt) -> dict[str, int]:
    return {name: made.before[name].rows - made.after[name].rows for name in made.before}


def tree(lake: Lake) -> dict[str, str]:
    files = (path for path in lake.home.root.rglob("*") if path.is_file() and path.suffix != ".db-shm")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_lake(lake: Lake) -> None:
    """Every version can be read and has the rows, files and digests that its record states."""
    for version in version_index.list_versions(lake.store):
        rows = [row for batch in iceberg_tables.read_batches(lake.home, version) for row in batch.to_pylist()]
        assert len(rows) == version.rows
        assert not any(NAME in str(row) or EMAIL in str(row) for row in rows)
        for shard in version.token_shards:
            token_shards.open_shard(shards_folder(lake.home, version), shard)


def test_a_person_leaves_every_store(lake: Lake) -> None:
    places = plant_everywhere(lake)
    before = {version.id: version for version in version_index.list_versions(lake.store)}
    found = scan(lake)
    assert places <= found
    parts = ("tables/lake/docs/data", "versions/docs/v2.files", "quarantine/docs/v1")
    for part in (*parts, "shards/docs-split@v1", "indexes/docs@v2"):
        assert any(place.startswith(f"lake/{part}") for place in found), part
    made = erase(lake)
    assert scan(lake) == set()
    check_lake(lake)
    counts = {(place.store, place.place): place.count for place in made.found}
    assert [counts["table", f"docs@v{number}"] for number in (1, 2)] == [2, 3]
    assert counts["table", "docs-clean@v1"] == 3
    assert counts["table", "docs-split@v1"] == counts["table", "docs-last@v1"] == counts["shards", "docs-split@v1"] == 3
    assert counts["indexes", "docs@v2"] == 3
    assert counts["quarantine", "docs@v1"] == counts["quarantine", "docs@v2"] == counts["quarantine", "never@v1"] == 1
    for name in made.versions:
        if name in before:
            old, new = before[name], find(lake, name)
            assert new.erasures == {Path(str(made.receipt)).stem: counts["table", name]}
            assert new.rows == old.rows - counts["table", name]
            assert new.content_sha256 != old.content_sha256
    assert find(lake, "docs@v1").drops == {}
    assert sorted(path.name for path in (lake.home.lake / "erasures").iterdir()) == [Path(str(made.receipt)).name]


def test_the_receipt_proves_and_names_nobody(lake: Lake) -> None:
    plant(lake)
    made = erase(lake)
    path = Path(str(made.receipt))
    checked = receipt.verify_receipt(path, own_keys(lake.home))
    assert checked.proven
    assert count_removed(checked) == {"docs@v1": 2, "docs@v2": 3, "docs-clean@v1": 3}
    text = path.read_text(encoding="utf-8")
    assert not Subject([NAME, EMAIL]).match_text(text)
    assert checked.subject != hashlib.sha256(EMAIL.encode()).hexdigest()
    write_json(path, replace(checked, proven=False))
    with refuses("AW-DATA-61"):
        receipt.verify_receipt(path, own_keys(lake.home))
    path.write_text("{}")
    with refuses("AW-DATA-60"):
        receipt.verify_receipt(path, own_keys(lake.home))


def test_a_receipt_that_another_key_signed_is_refused(lake: Lake) -> None:
    plant(lake)
    made = receipt.verify_receipt(Path(str(erase(lake).receipt)), own_keys(lake.home))
    stranger = SigningKey(b"s" * 32)
    forged = replace(made, found=(), public_key=stranger.public_key, signature="")
    forged = replace(forged, signature=stranger.sign(msgspec.json.encode(forged)))
    path = lake.root / "forged.json"
    write_json(path, forged)
    for stated in (own_keys(lake.home), ()):
        with refuses("AW-DATA-82"):
            receipt.verify_receipt(path, stated)
    assert receipt.verify_receipt(path, (stranger.public_key,)) == forged


def test_every_file_of_an_indexed_lake_is_proven(lake: Lake) -> None:
    add_embedder(lake)
    lake.ingest_rows([*ROWS, {"title": "note", "text": f"signed {EMAIL}", "page": 5, "kind": "notice"}])
    index(lake)
    hold_reserve(lake.home)
    load_pepper(lake.home, lake.store)
    scan = erase(lake, EMAIL).scan
    assert scan is not None and scan.clean
    assert [place for place in scan.not_proven if not place.startswith("models/")] == []


@pytest.mark.parametrize("name", ["keywords/*.term", "keywords/*.idx", "vectors.usearch"])
def test_an_index_file_that_passages_do_not_explain_is_not_proven(lake: Lake, name: str) -> None:
    add_embedder(lake)
    lake.ingest_rows(ROWS)
    index(lake)
    (segment,) = (path.parent for path in lake.home.lake.glob("indexes/*/*/passages.arrow"))
    changed = next(segment.glob(name))
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    changed.write_bytes(data)
    if name == "vectors.usearch":
        write_vectors(changed, len(ROWS) + 1)  # a vector without a passage
    found = scan_files(lake.home.lake / "indexes", Subject([EMAIL]), (OwnFileDecoder(lake.home).decode,))
    assert changed.relative_to(lake.home.lake / "indexes").as_posix() in found.not_proven


def write_vectors(path: Path, rows: int) -> None:
    vectors = Index(ndim=4, metric="cos", dtype="f16")
    vectors.add(np.arange(rows), np.eye(rows, 4, dtype=np.float32))
    vectors.save(str(path))


def test_only_page_numbers_make_a_log_index(lake: Lake) -> None:
    path = lake.home.root / "archwright.db-shm"
    load_pepper(lake.home, lake.store)
    data = path.read_bytes()
    assert is_wal_index(path)
    copy = lake.root / "archwright.db-shm"
    for suffix in ("", "-wal"):
        copy.with_name(f"archwright.db{suffix}").write_bytes((lake.home.root / f"archwright.db{suffix}").read_bytes())
    copy.write_bytes(data)
    assert is_wal_index(copy)
    copy.write_bytes(data[:20_000] + b"zoe.uebel@exampl" + data[20_016:])
    assert not is_wal_index(copy)


def test_a_dry_run_and_an_unknown_person_write_nothing(lake: Lake) -> None:
    plant(lake)
    lake.store.rows(USER_NAMES)  # reading makes the table
    before = tree(lake)
    planned = erase(lake, dry_run=True)
    assert (planned.rows, planned.receipt) == (8, None)
    with refuses("AW-DATA-57") as caught:
        erase(lake, "nobody@example.org")
    assert caught.value.exit_status == 13
    assert tree(lake) == before
    assert erase(lake).found == planned.found
    with refuses("AW-DATA-57"):
        erase(lake)


def test_a_pseudonym_in_a_refined_version_names_the_person(lake: Lake) -> None:
    """The source is gone, so only the pseudonym leads to the row."""
    pseudonym = make_pseudonym(load_pseudonym_key(lake.home, ""), "email", EMAIL)
    lake.ingest_rows([{"text": f"mail of {pseudonym}"}, {"text": "x"}])
    assert erase(lake, EMAIL).rows == 1
    assert lake.values("docs@v1", "text") == ["x"]


def test_redacted_chunks_descend_from_the_person(lake: Lake) -> None:
    """No chunk names the person; each leads to the row by its parent, and a later version by its own id."""
    lake.ingest_rows([{"text": f"{EMAIL} " + "wrote this. " * 12}, {"text": "another row"}])
    lake.refine("[{redact: {columns: [text]}}]")
    lake.refine("[{chunk: {characters: 60, overlap: 0}}]", source="docs-clean", into="docs-split")
    lake.refine("[{drop-short: {characters: 5}}]", source="docs-split", into="docs-last")
    chunks = find(lake, "docs-split").rows
    assert chunks > 3
    assert len(table_rows.find_record_ids(lake.home, Subject([EMAIL]))) == 1 + chunks - 1
    counts = {found.place: found.count for found in erase(lake, EMAIL).found}
    assert counts == {"docs@v1": 1, "docs-clean@v1": 1, "docs-split@v1": chunks - 1, "docs-last@v1": chunks - 1}
    assert lake.values("docs-last", "text") == ["another row"]


def test_a_dropped_row_names_no_erased_twin(lake: Lake) -> None:
    lake.ingest_rows([{"text": "same words", "mail": EMAIL}, {"text": "same words", "mail": "-"}])
    lake.refine("[{drop-duplicates: {columns: [text]}}]")
    path = lake.home.lake / "drops" / "docs-clean" / "v1.jsonl"
    assert "kept" in json.loads(path.read_text())
    erase(lake, EMAIL)
    assert "kept" not in json.loads(path.read_text())


def test_files_that_killed_writers_left_incomplete_stop_no_erasure(lake: Lake) -> None:
    plant(lake)
    left = [
        lake.home.folder("lake", "tables", "lake", "new", "data") / "v000001-000000-x.parquet",
        lake.home.folder("lake", "tables", "lake", "docs", "data") / "v000009-000000-x.parquet",
        lake.home.folder("lake", "shards", "docs-clean@v9") / "000000.parquet",
        lake.home.folder("lake", "indexes", "docs@v1", "0" * 32) / "passages.arrow",
    ]
    for path in left:
        path.write_bytes(b"PAR1")
    made = erase(lake, NAME)
    assert made.scan is not None and made.scan.clean
    assert not any(path.exists() for path in left)
    damaged = sorted(lake.data_files())[0]
    damaged.write_bytes(damaged.read_bytes()[:-8])
    before = tree(lake)
    with refuses("AW-DATA-62"):
        erase(lake, NAME)
    assert tree(lake) == before


def test_many_rows_need_a_confirmation(lake: Lake) -> None:
    lake.ingest_rows([{"text": "Anna Meier"}] * 101)
    assert erase(lake, "Anna Meier", dry_run=True).confirm
    with refuses("AW-DATA-58"):
        erase(lake, "Anna Meier")
    with refuses("AW-DATA-58"):
        erase(lake, "Anna Meier", expect_rows=100)
    assert erase(lake, "Anna Meier", expect_rows=101).rows == 101
    assert find(lake, "docs@v1").rows == 0


def test_what_stays_is_named_and_fails(lake: Lake) -> None:
    lake.ingest_rows([{"text": NAME}, {"text": "x"}])
    (lake.home.folder("config") / "own.json").write_text(f'{{"owner": "{NAME}"}}', encoding="utf-8")
    with refuses("AW-DATA-59", match=r"config/own\.json") as caught:
        erase(lake)
    made = caught.value.result
    assert isinstance(made, ErasureOutcome)
    assert not receipt.verify_receipt(Path(str(made.receipt)), own_keys(lake.home)).proven
    assert lake.values("docs@v1", "text") == ["x"]


def test_writers_wait_for_an_erasure_and_readers_see_it(lake: Lake) -> None:
    plant(lake)
    reader = iceberg_tables.read_batches(lake.home, find(lake, "docs@v2"))
    with lock_lake(lake.home, shared=False):
        other = threading.Thread(target=lambda: Lake(lake.root).ingest("other"))
        other.start()
        other.join(0.5)
        assert other.is_alive()
    other.join()
    erase(lake)
    with refuses("AW-DATA-43"):
        list(reader)
    check_lake(lake)


KILLED = """
import os, signal, sys
from archwright.home import Home
from archwright.lake.erasure import erasure, lake_stores, receipt, table_rows, version_records
from archwright.lake.erasure.erasure import ErasureRequest, erase_subject
from archwright.lake.tables import iceberg_tables, table_rewriting, version_index
from archwright.store import Store

root, place, when, *identifiers = sys.argv[1:]
owner, name = place.rsplit(".", 1)
thing = eval(owner)
original, calls = getattr(thing, name), []
def last(*words, **more):
    calls.append(1)
    if len(calls) == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*words, **more)
setattr(thing, name, last)
home = Home(root + "/home")
erase_subject(home, Store(home.store_url), ErasureRequest(identifiers))
"""
PLACES = [
    ("erasure.scan_files", 1),
    ("lake_stores.rewrite_file", 1),
    ("lake_stores.rewrite_versions", 1),
    ("iceberg_tables.rebuild_table", 1),
    ("version_index._replace_rows", 1),
    ("iceberg_tables.purge_table", 2),
    ("lake_stores.write_atomic", 1),
    ("lake_stores.remove_records", 1),
    ("lake_stores.token_shards.index_path", 2),
    ("version_records.update_records", 1),
    ("version_index.apply_rewrite", 4),
    ("receipt.sign_receipt", 1),
    ("receipt.journal_path", 2),
]


def kill_and_repeat(lake: Lake, place: str, when: int) -> None:
    planned = erase(lake, dry_run=True)
    words = [sys.executable, "-c", KILLED, str(lake.root), place, str(when), NAME, EMAIL]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    for pending in (lake.home.lake / "erasures").glob("*.pending.json"):
        assert not Subject([NAME, EMAIL]).match_text(pending.read_text())
    made = erase(lake)
    counts = {(found.store, found.place): found.count for found in made.found}
    assert all(counts[found.store, found.place] >= found.count for found in planned.found)
    checked = receipt.verify_receipt(Path(str(made.receipt)), own_keys(lake.home))
    held = {found.place: found.count for found in planned.found if found.store == "table"}
    assert count_removed(checked) == {name: held[name] for name in planned.versions}
    assert scan(lake) == set()
    check_lake(lake)
    assert len(list((lake.home.lake / "erasures").iterdir())) == 1
    with refuses("AW-DATA-57"):
        erase(lake)


@pytest.mark.process
def test_an_erasure_killed_and_repeated(lake: Lake) -> None:
    plant(lake)
    kill_and_repeat(lake, "lake_stores.rewrite_versions", 2)


@pytest.mark.nightly
@pytest.mark.parametrize(("place", "when"), PLACES)
def test_an_erasure_killed_anywhere_and_repeated(lake: Lake, place: str, when: int) -> None:
    plant_everywhere(lake)
    kill_and_repeat(lake, place, when)

"""Names in keys, usage, cached responses, logs and the database: found before the erasure, gone after it."""

from __future__ import annotations

import zlib
from contextlib import closing
from pathlib import Path

import pytest

from archwright.access import tables
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.access.audit_log import AUDIT_STREAM, AuditEvent, AuditLog, check_chain, name_users, read_entries
from archwright.access.signed_rows import sign_anew
from archwright.contract.record import replace
from archwright.lake.erasure import record_stores
from archwright.lake.erasure.lake_stores import ErasableStore, ErasureScope
from archwright.lake.erasure.subject import MASK, Subject
from archwright.monitor.shared_table import SharedTable
from archwright.monitor.user_names import USER_NAMES, find_user_ids
from archwright.monitor.wal.compaction import BLOCKS, RecordBlock, compact_orphans
from archwright.monitor.wal.writer import WalWriter

from ..temporary_lake import Lake

NAME = "ann.miller@example.org"


def scope_of(lake: Lake) -> ErasureScope:
    return ErasureScope(lake.home, lake.store, Subject([NAME]))


def count(store: ErasableStore) -> int:
    return sum(place.count for place in store.find())


def erase(store: ErasableStore) -> int:
    """Returns how often the person was found; afterwards nothing is found, also by a second erasure."""
    before = count(store)
    store.erase()
    store.erase()
    assert count(store) == 0
    return before


def find_in_file(path: Path) -> int:
    decoded = 0
    for decode in record_stores.DECODERS:
        arrays = decode(path, path.read_bytes()[:16])
        decoded += sum(Subject([NAME]).match_values(array).true_count for array in arrays or ())
    return decoded


def test_a_user_is_nameless_and_without_keys(lake: Lake) -> None:
    keys = KeyStore(lake.store, load_pepper(lake.home, lake.store))
    secret, record = keys.create("clinic", user=NAME)
    keys.create("clinic", user="bob@example.org")
    assert erase(record_stores.UserNameStore(scope_of(lake))) == 1
    assert KeyStore(lake.store, load_pepper(lake.home, lake.store)).identify(secret) is None
    assert keys.is_revoked(record.id)
    assert [row.name for row in lake.store.rows(USER_NAMES)] == ["bob@example.org"]


def test_the_signed_log_names_an_erased_user_by_an_id_that_names_nobody(lake: Lake) -> None:
    keys = KeyStore(lake.store, load_pepper(lake.home, lake.store))
    keys.create("clinic", user=NAME)
    user = find_user_ids(lake.store, NAME)[0]
    with closing(WalWriter(lake.store, lake.home)) as wal:
        audit = AuditLog(wal)
        event = AuditEvent(at=1.0, tenant="clinic", key_id="k", action="a", permission="p", effect="allow", user=user)
        audit.record(event)
        audit.record(replace(event, user=NAME))  # as older versions wrote it
        audit.flush()
        [path] = lake.home.write_ahead_log.glob("*.segment")
        assert find_in_file(path) == 1
    compact_orphans(lake.store, lake.home)
    shown = name_users(read_entries(lake.store), lake.store)
    assert [entry.user for entry in shown] == [NAME, NAME]
    scope = scope_of(lake)
    record_stores.UserNameStore(scope).erase()
    database = record_stores.DatabaseStore(scope)
    before = lake.store.rows(BLOCKS[AUDIT_STREAM])
    database.erase()
    assert lake.store.rows(BLOCKS[AUDIT_STREAM]) == before and check_chain(lake.store).broken is None
    assert [*database.find()] == []
    assert [entry.user for entry in name_users(read_entries(lake.store), lake.store)] == [NAME, user]


def test_tables_blocks_and_free_pages_of_the_database(lake: Lake) -> None:
    keys = KeyStore(lake.store, load_pepper(lake.home, lake.store))
    secret, _record = keys.create("clinic", name="laptop")
    check = replace(lake.store.rows(tables.PEPPER_CHECKS)[-1], generation=2)
    pepper = load_pepper(lake.home, lake.store)
    sign_anew(lake.store, pepper, check, change=lambda row: replace(row, name=f"laptop of {NAME}"))
    lines = zlib.compress(f'{{"id":"1","user":"{NAME}"}}\n{{"id":"2","user":"bob"}}'.encode())
    block = RecordBlock(writer="w", number=0, end=9, first_at=1.0, last_at=2.0, count=2, tip="", data=lines)
    lake.store.append(BLOCKS["served"], [block])
    lake.ingest_rows([{"n": 1}])
    path = lake.home.root / "archwright.db"
    lake.store.purge_deleted_rows()
    assert find_in_file(path) == 2 and NAME.encode() in path.read_bytes()
    assert erase(record_stores.DatabaseStore(scope_of(lake))) == 2
    assert [row.name for row in lake.store.rows(tables.KEYS)] == [MASK]
    assert keys.identify(secret) is not None, "the changed row is signed anew"
    [revised] = lake.store.rows(BLOCKS["served"])
    assert zlib.decompress(revised.data).decode() == f'{{"id":"1","user":"{MASK}"}}\n{{"id":"2","user":"bob"}}'
    lake.store.purge_deleted_rows()
    for file in lake.home.root.glob("archwright.db*"):
        assert NAME.encode() not in file.read_bytes(), file


def test_cached_responses(lake: Lake) -> None:
    table = SharedTable(lake.home.shared_tables, "cache", 1 << 20, tables=("0",))
    other = SharedTable(lake.home.shared_tables, "accounts", 1 << 20)
    table.write(lambda transaction: transaction.put(b"key", f"Dear {NAME}".encode(), db=table.tables["0"]))
    [path] = lake.home.shared_tables.glob("cache-*.lmdb")
    assert find_in_file(path) == 1
    assert erase(record_stores.SharedTableStore(scope_of(lake))) >= 1
    assert not path.exists() and [*lake.home.shared_tables.glob("accounts-*.lmdb")]
    table.follow_replacement()
    assert table.read(lambda transaction: transaction.get(b"key", db=table.tables["0"])) is None
    table.close()
    other.close()


def test_lines_of_logs_are_overwritten_in_place(lake: Lake) -> None:
    with lake.home.open_log("gateway") as log:
        log.write(f"started\nrefused {NAME}: no key\nended\n".encode())
        log.flush()
        assert erase(record_stores.LogStore(scope_of(lake))) == 1
        log.write(b"went on\n")
    words = f"refused {NAME}: no key"
    assert lake.home.log("gateway").read_text() == f"started\n{'*' * len(words)}\nended\nwent on\n"


def test_files_of_batches_are_deleted_whole(lake: Lake) -> None:
    folder = lake.home.folder("batches", "acme")
    for name, text in (("file-1.jsonl", f'{{"body": "{NAME}"}}'), ("file-2.jsonl", "{}"), ("batch_3.log", f"x {NAME}")):
        (folder / name).write_text(text)
        (folder / name).with_suffix(".json").write_text("{}")
    assert erase(record_stores.BatchFileStore(scope_of(lake))) >= 2
    assert {path.name for path in folder.iterdir()} == {"file-2.json", "file-2.jsonl"}


@pytest.mark.parametrize("name", ["x.lmdb", "x.db"])
def test_a_damaged_file_is_no_proof(lake: Lake, name: str) -> None:
    path = lake.root / name
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(ValueError, match="cannot be read"):
        find_in_file(path)

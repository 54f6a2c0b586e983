"""Numbers and digests of records, and the lines that carry them."""

from __future__ import annotations

import hashlib

import pytest

from archwright.access.record_chain import (
    AUDIT_BLOCKS,
    ChainState,
    decode_record_lines,
    encode_record_lines,
    read_block_identity,
    read_chain_end,
    read_chained_blocks,
)
from archwright.errors import StoreError
from archwright.store import Store

from .audit_delivery.log_with_places import fill_store

RECORDS = [b'{"record":%d,"text":",\\"record\\":{}"}' % number for number in range(7)]


def test_a_digest_covers_all_records_before(store: Store) -> None:
    fill_store(store, [RECORDS[:3], RECORDS[3:]])
    expected = ""
    for record in RECORDS:
        expected = hashlib.sha256(expected.encode() + record).hexdigest()
    first, second = read_chained_blocks(store, ChainState())
    assert (second.end.records, second.end.digest) == (7, expected)
    assert read_chain_end(store, first.end, second.end.seq) == second.end
    assert read_chain_end(store, ChainState(), first.end.seq) == first.end
    assert read_block_identity(store, first.end.seq) == first.identity != second.identity
    assert read_block_identity(store, 99) == ""


def test_a_line_returns_the_bytes_of_its_record_behind_any_text(store: Store) -> None:
    fill_store(store, [RECORDS])
    (block,) = read_chained_blocks(store, ChainState())
    lines = encode_record_lines("name", block)
    found = list(decode_record_lines([b"Dec 3 host archwright: " + line + b"\r\n" for line in lines]))
    assert [line.record for line in found] == RECORDS
    assert [(line.store, line.number) for line in found] == [("name", number) for number in range(1, 8)]
    assert [line.digest for line in found] == list(block.digests)


@pytest.mark.parametrize(
    "line",
    [b"", b"text", b'{"kind":"archwright-audit-record",', b'{"kind":"archwright-audit-record","number":1,"record":{}}'],
)
def test_what_is_no_whole_line_is_passed_over(line: bytes) -> None:
    assert list(decode_record_lines([line])) == []


def test_a_damaged_block_is_an_error(store: Store) -> None:
    fill_store(store, [RECORDS])
    store.revise(
        AUDIT_BLOCKS,
        lambda block: type(block)(
            **{name: getattr(block, name) for name in block.__struct_fields__ if name != "data"}, data=b"no zlib"
        ),
    )
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-08"):
        list(read_chained_blocks(store, ChainState()))

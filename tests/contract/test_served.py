"""Records of finished requests stay readable when a later release adds fields."""

from __future__ import annotations

import msgspec

from archwright.contract.served import RequestRecord


def test_a_record_without_the_newest_field_is_read() -> None:
    record = RequestRecord(at=1.0, request_id="r", status="ok", http_status=200)
    fields = msgspec.json.decode(msgspec.json.encode(record))
    assert fields[-1] == 200 and msgspec.json.decode(msgspec.json.encode(fields), type=RequestRecord) == record
    older = msgspec.json.decode(msgspec.json.encode(fields[:-1]), type=RequestRecord)
    assert (older.request_id, older.operation, older.http_status) == ("r", "chat", 0)

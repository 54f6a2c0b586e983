"""`usage`: every request is counted once, in the groups asked for, in the shell and in Python."""

from __future__ import annotations

import pytest

from archwright import api
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store

from ..command_line import CommandLine, error_of

DAY_S = 86_400.0


@pytest.fixture
def usage_records(home: Home) -> None:
    """Two days of two tenants: the first day is compacted, the second is not, and the gateway has ended."""
    store = Store(home.store_url)
    ledger = WalWriter(store, home)
    for number in range(6):
        one = RequestRecord(
            at=20_000 * DAY_S + (number // 3) * DAY_S + number,
            request_id=f"r{number}",
            status="ok",
            tenant="bank" if number % 2 else "acme",
            key_id=f"k{number % 3}",
            model="big" if number < 4 else "small",
            input_tokens=10,
            output_tokens=number,
            cost_usd=0.000_25 if number < 4 else None,
            cache="hit" if number == 5 else "miss",
            saved_usd=0.5 if number == 5 else 0.0,
        )
        ledger.append("served", one)
        ledger.flush()
        if number == 2:
            ledger.compact()
    ledger.append("served", RequestRecord(at=20_000 * DAY_S, request_id="s", status="ok", model="next", shadow=True))
    ledger.close()
    store.close()


def test_by_tenant_and_model(usage_records: None, cli: CommandLine) -> None:
    found = cli.json("usage")
    assert [(one["tenant"], one["model"], one["requests"], one["output_tokens"]) for one in found] == [
        ("acme", "big", 2, 2),
        ("acme", "small", 1, 4),
        ("bank", "big", 2, 4),
        ("bank", "small", 1, 5),
    ]
    assert [one["cost_usd"] for one in found] == [0.0005, 0.0, 0.0005, 0.0]
    assert (found[3]["hits"], found[3]["saved_usd"]) == (1, 0.5)
    text = cli.text("usage --tenant bank")
    assert "bank" in text and "acme" not in text and "key" not in text, "what is not told apart has no column"
    assert "0.0005 " in text, "a small model's bill is no bill of 0"


def test_by_other_words(usage_records: None) -> None:
    assert [(one.day, one.key, one.requests) for one in api.usage(by="day, key", tenant="acme")] == [
        ("2024-10-04", "k0", 1),
        ("2024-10-04", "k2", 1),
        ("2024-10-05", "k1", 1),
    ]
    (whole,) = api.usage(by="")
    assert (whole.requests, whole.input_tokens, whole.tenant, whole.cost_usd) == (6, 60, "", 0.001)
    assert "colour" in error_of("AW-USE-66", api.usage, by="tenant,colour").message


def test_nothing_served_is_no_error(cli: CommandLine) -> None:
    assert cli.json("usage") == []
    assert cli.text("usage") == "none\n"

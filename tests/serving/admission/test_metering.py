"""The recorded spending of new accounts is summed once, and again when it may have changed; errors of limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archwright.access.reservations import LimitDenial
from archwright.access.tables import LimitScope, format_scope_name
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.usage_totals import DAY_S
from archwright.monitor.wal.writer import WalWriter
from archwright.policy.usage_limits import UsageLimits
from archwright.serving.admission.metering import LIMITS_PROPAGATION_S, RecordedSpending, limit_exceeded
from archwright.store import Store

LIMITS = UsageLimits(budget_usd=1.0)
NOW = time.time()
RATE = "rate_limit_exceeded"


class Counting(WalWriter):
    """A ledger that counts how often it was asked."""

    asked = 0

    def flush(self) -> None:
        self.asked += 1
        super().flush()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Counting]:
    home = Home(tmp_path)
    store = Store(home.store_url)
    made = Counting(store, home)
    yield made
    made.close()
    store.close()


def spent(ledger: WalWriter, key: str, usd: float, at: float = NOW, *, shadow: bool = False) -> None:
    names: dict[str, Any] = {"request_id": key, "status": "ok", "tenant": "t", "key_id": key, "user": "u", "model": "m"}
    ledger.append("served", RequestRecord(at=at, cost_usd=usd, shadow=shadow, **names))


def test_all_scopes_are_added_up_once_until_something_changes(ledger: Counting) -> None:
    for number in range(50):
        spent(ledger, f"k{number}", 0.5)
        spent(ledger, f"k{number}", 0.25, NOW - 40 * DAY_S)
    spent(ledger, "k1", 9.0, shadow=True)
    stamp, clock = [1], [0.0]
    spending = RecordedSpending(ledger, ledger.home, lambda: tuple(stamp), lambda: clock[0])
    keys = [LimitScope("key", format_scope_name("key", name=f"k{number}"), LIMITS) for number in range(50)]
    assert {spending(key, 0.0) for key in keys} == {0.75}
    assert spending(LimitScope("tenant", format_scope_name("tenant", "t"), LIMITS), 0.0) == 37.5
    assert spending(LimitScope("user", format_scope_name("user", "t", "u"), LIMITS), 0.0) == 37.5
    assert spending(LimitScope("key", format_scope_name("key", name="new"), LIMITS), 0.0) == 0.0
    asked = ledger.asked
    assert asked == 1
    assert {spending(key, NOW - DAY_S) for key in keys} == {0.5}, "of this period alone"
    spent(ledger, "k0", 1.0)
    assert spending(keys[0], 0.0) == 0.75, "who has an account spends nothing beside it"
    stamp[0] = 2
    assert spending(keys[0], 0.0) == 1.75
    spent(ledger, "k0", 1.0)
    clock[0] += LIMITS_PROPAGATION_S
    assert spending(keys[0], 0.0) == 2.75, "what a worker let in that did not know of the change yet"
    spent(ledger, "k0", 1.0)
    clock[0] += 100 * LIMITS_PROPAGATION_S
    assert spending(keys[0], 0.0) == 2.75


def test_what_was_written_while_the_clock_was_ahead_is_no_month_s_before(ledger: Counting) -> None:
    """It once counted in every month and day until then, so nobody with a budget was served."""
    spent(ledger, "k", 0.5)
    spent(ledger, "k", 0.25, NOW + 4 * 365 * DAY_S)
    spending = RecordedSpending(ledger, ledger.home, lambda: None, lambda: 0.0, clock=lambda: NOW)
    key = LimitScope("key", format_scope_name("key", name="k"), LIMITS)
    assert spending(key, NOW - NOW % DAY_S) == 0.5
    assert spending(key, 0.0) == 0.75, "but of all time"
    spending = RecordedSpending(ledger, ledger.home, lambda: None, lambda: 0.0, clock=lambda: NOW + 4 * 365 * DAY_S)
    assert spending(key, NOW + 4 * 364 * DAY_S) == 0.25


@pytest.mark.parametrize(
    ("denial", "status", "code", "message"),
    [
        (LimitDenial("requests", "key", 12), 429, RATE, "this key allows 5 requests per minute. Retry"),
        (LimitDenial("tokens", "key", None), 429, RATE, "this key allows 900 tokens per minute. Send"),
        (LimitDenial("budget", "tenant", None), 429, "insufficient_quota", "of this tenant (1 USD, period: total)"),
        (LimitDenial("unpriced", "user", None), 403, "model_not_priced", "Set a price or use a user without a budget."),
    ],
)
def test_an_error_names_the_limit_and_its_number(denial: LimitDenial, status: int, code: str, message: str) -> None:
    scopes = [LimitScope("key", "k", UsageLimits(rpm=5, tpm=900)), LimitScope("tenant", "t", LIMITS)]
    error = limit_exceeded(denial, scopes)
    assert (error.status, error.openai_code, error.retry_after_s) == (status, code, denial.retry_after_s)
    assert message in error.message

"""Alerts are sent once per threshold and period, also over restarts, and with so many attempts at most."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from archwright.access.budget_levels import BudgetLevel
from archwright.journal import Journal
from archwright.serving.process import alert_process
from archwright.serving.process.alert_delivery import Alert
from archwright.serving.process.alert_process import MAX_ATTEMPTS, AlertSender, is_reached

ALERT = Alert("budget|tenant:a|0|10|0.8", "The budget is used to 80%.", {"event": "budget"})


class Channel:
    """A channel that fails for the first `failures` attempts."""

    def __init__(self, failures: int = 0) -> None:
        self.attempts, self._failures = 0, failures

    def deliver(self, alert: Alert) -> None:
        self.attempts += 1
        if self.attempts <= self._failures:
            raise ConnectionRefusedError("no server")


def make_sender(folder: Path, log: io.StringIO, **channels: Channel) -> AlertSender:
    named: dict[str, Callable[[Alert], None]] = {name: channel.deliver for name, channel in channels.items()}
    return AlertSender(folder / "alerts.json", named, Journal("alerts", log))


def test_an_alert_is_sent_once_by_each_channel_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that fails is tried again, without a second delivery by the other one."""
    monkeypatch.setattr(alert_process, "FIRST_RETRY_S", 0.0)
    log, mail, hook = io.StringIO(), Channel(), Channel(failures=2)
    sender = make_sender(tmp_path, log, email=mail, webhook=hook)
    for _ in range(5):
        sender.send(ALERT)
    assert (mail.attempts, hook.attempts) == (1, 3)
    again = make_sender(tmp_path, log, email=mail, webhook=hook)
    again.send(ALERT)
    assert (mail.attempts, hook.attempts) == (1, 3)
    again.send(ALERT._replace(id="budget|tenant:a|86400|10|0.8"))
    assert (mail.attempts, hook.attempts) == (2, 4), "another period"
    assert log.getvalue().count("alert not sent") == 2


def test_a_channel_that_stays_away_gets_so_many_attempts_and_not_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, hook = io.StringIO(), Channel(failures=99)
    sender = make_sender(tmp_path, log, webhook=hook)
    for _ in range(5):
        sender.send(ALERT)
    assert hook.attempts == 1, "the next attempt waits"
    monkeypatch.setattr(alert_process, "FIRST_RETRY_S", 0.0)
    sender._retry_at.clear()
    for _ in range(2 * MAX_ATTEMPTS):
        sender.send(ALERT)
    assert hook.attempts == MAX_ATTEMPTS == log.getvalue().count("alert not sent")


@pytest.mark.parametrize(
    ("spent", "refused", "reached"),
    [(79, False, []), (79, True, []), (80, False, [0.8]), (95, True, [0.8, 1.0]), (100, False, [0.8, 1.0])],
)
def test_a_threshold_is_reached_by_what_is_spent_and_the_last_by_a_refusal(
    spent: int, refused: bool, reached: list[float]
) -> None:
    level = BudgetLevel(100, spent, 0, 0, refused)
    assert [threshold for threshold in alert_process.THRESHOLDS if is_reached(level, threshold)] == reached

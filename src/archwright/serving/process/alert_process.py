"""`python -P -m archwright.serving.process.alert_process HOME CONFIG.json`: sends alerts beside the workers.

It compares the budgets of keys, users and tenants with 80 and 100 %, and notices upstreams that begin to fail. Each
alert is sent once per threshold and period by each channel, with at most MAX_ATTEMPTS attempts.
Design: a child of the master, so no request waits for it. The master's end closes its standard input. One process of
a home sends: it holds a lock, and what was sent is a file of the home.
"""

import fcntl
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import msgspec

from archwright.access.accounts import open_accounts_table
from archwright.access.api_keys import KeyStore, read_pepper
from archwright.access.budget_levels import DAY_S, BudgetLevel, read_budget_levels
from archwright.access.recorded_spend import sum_recorded_spend
from archwright.access.tables import name_user_in_scope
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home, open_private, write_json
from archwright.journal import Journal
from archwright.monitor.user_names import read_user_names
from archwright.policy.usage_limits import NUSD_PER_USD
from archwright.python_process import run_entry_point
from archwright.serving.process.alert_delivery import Alert, Channels, list_channels
from archwright.serving.routing.upstream_reports import read_failing_upstreams
from archwright.serving.settings.config import read_config
from archwright.serving.settings.engine_secrets import read_store_url
from archwright.store import Store

CHECK_S = 1.0
THRESHOLDS = (0.8, 1.0)
MAX_ATTEMPTS, FIRST_RETRY_S = 6, 1.0  # after 1, 4, 16, 64 and 256 s
QUIET_S = 900.0  # an upstream that fails again within this time causes no second alert
KEPT_S = 400 * DAY_S


class AlertWatcher:
    """Finds new alerts in the state of a home."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home, self._store = home, store
        self._table = open_accounts_table(home)
        self._keys = KeyStore(store, read_pepper(home), table=self._table)
        self._failed_at: dict[str, float] = {}

    def find_alerts(self) -> Iterator[Alert]:
        """Yield the alerts of the present state, sent or not. Raises StoreError."""
        now = time.time()
        today = int(now // DAY_S)

        @cache
        def sum_spend(day: int) -> Counter[str]:
            return sum_recorded_spend(self._store, self._home, day=day, today=today)

        self._keys.refresh_version()
        limits = self._keys.list_limits()
        levels = read_budget_levels(self._table, limits, sum_spend, now=now)
        names = read_user_names(self._store)
        for scope, level in levels.items():
            for threshold in THRESHOLDS:
                if is_reached(level, threshold):
                    yield _describe_budget(scope, name_user_in_scope(scope, names), level, threshold)
        for upstream in read_failing_upstreams(self._table, time.monotonic()):
            if now - self._failed_at.get(upstream, 0.0) > QUIET_S:
                self._failed_at[upstream] = now
            begin = self._failed_at[upstream]
            fields: dict[str, object] = {"event": "upstream_failed", "upstream": upstream, "at": int(begin)}
            yield Alert(f"upstream|{upstream}|{begin:.0f}", f"The upstream {upstream} fails.", fields)

    def close(self) -> None:
        self._table.close()


def is_reached(level: BudgetLevel, threshold: float) -> bool:
    """True if so much is spent. All of it also counts as spent if the last request did not fit into the rest."""
    share = level.spent_nusd / max(level.budget_nusd, 1)
    return share >= threshold or (threshold == THRESHOLDS[-1] and level.refused and share >= THRESHOLDS[0])


def _describe_budget(scope: str, shown: str, level: BudgetLevel, threshold: float) -> Alert:
    kind, _, name = shown.partition(":")
    spent_usd, budget_usd = level.spent_nusd / NUSD_PER_USD, level.budget_nusd / NUSD_PER_USD
    used = "is used up" if threshold == THRESHOLDS[-1] else f"is used to {threshold:.0%}"
    subject = f"The budget of the {kind} {name} {used}: {spent_usd:.4f} of {budget_usd:.4f} USD."
    fields: dict[str, object] = {"event": "budget", "scope": kind, "name": name, "threshold": threshold}
    fields |= {"spent_usd": spent_usd, "budget_usd": budget_usd, "since": level.since}
    return Alert(f"budget|{scope}|{level.since}|{level.budget_nusd}|{threshold}", subject, fields)


class AlertSender:
    """Sends each alert once by each channel. `sent`: the time of the last attempt, by alert and channel."""

    def __init__(self, path: Path, channels: Channels, journal: Journal) -> None:
        self._path, self._channels, self._journal = path, channels, journal
        self._sent: dict[str, float] = {}
        if path.exists():
            self._sent = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        self._attempts: Counter[str] = Counter()
        self._retry_at: dict[str, float] = {}

    def send(self, alert: Alert) -> None:
        for name, deliver in self._channels.items():
            delivery = f"{name}|{alert.id}"
            if delivery in self._sent or time.monotonic() < self._retry_at.get(delivery, 0.0):
                continue
            self._attempts[delivery] += 1
            attempt = self._attempts[delivery]
            try:
                with boundary("alert"):
                    deliver(alert)
            except ArchwrightError as error:
                self._journal.error(
                    "alert not sent", channel=name, alert=alert.subject, attempt=attempt, **error.as_dict()
                )
                self._retry_at[delivery] = time.monotonic() + FIRST_RETRY_S * 4 ** (attempt - 1)
                if attempt < MAX_ATTEMPTS:
                    continue
            else:
                self._journal.info("alert sent", channel=name, alert=alert.subject)
            self._note_sent(delivery)

    def _note_sent(self, delivery: str) -> None:
        """Note that the alert is done: delivered, or given up."""
        now = time.time()
        self._sent = {one: at for one, at in self._sent.items() if at > now - KEPT_S} | {delivery: now}
        write_json(self._path, self._sent)


def main(arguments: Sequence[str]) -> int:
    home, config = Home(arguments[0]), read_config(Path(arguments[1]), opens_tls_files=False)
    journal = Journal("alerts")
    if config.alerts is None:
        return 0
    with open_private(home.alerts.with_suffix(".lock"), "ab") as lock:
        while not _try_lock(lock.fileno()):
            if _has_ended(CHECK_S):
                return 0
        with closing(Store(read_store_url(config.store_url) or home.store_url)) as store:
            watcher, sender = AlertWatcher(home, store), AlertSender(home.alerts, list_channels(config.alerts), journal)
            with closing(watcher):
                while not _has_ended(CHECK_S):
                    _check_once(watcher, sender, journal)
    return 0


def _check_once(watcher: AlertWatcher, sender: AlertSender, journal: Journal) -> None:
    try:
        with boundary("alerts"):
            for alert in watcher.find_alerts():
                sender.send(alert)
    except ArchwrightError as error:
        journal.error("alerts not checked", **error.as_dict())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_ended(wait_s: float) -> bool:
    """Wait; return True if the master, which holds the other end of standard input, has ended."""
    readable, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
    return bool(readable) and not os.read(sys.stdin.fileno(), 64)


if __name__ == "__main__":
    run_entry_point(main)

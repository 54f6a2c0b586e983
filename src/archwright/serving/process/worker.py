"""A worker process: it builds its parts and serves until its master ends or replaces it."""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from archwright.access.accounts import Accounts, open_accounts_table
from archwright.access.api_keys import KeyStore, read_pepper
from archwright.access.audit_checkpoints import CheckpointWriter
from archwright.access.audit_delivery.outbox import open_outbox
from archwright.access.audit_delivery.places import split_addresses
from archwright.access.audit_log import AuditLog
from archwright.access.audit_verification import check_newest_mark
from archwright.access.log_retention import retain_days
from archwright.contract.record import replace
from archwright.errors import ArchwrightError, StoreError
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observation_exporter import ObservationExporter
from archwright.monitor.trace_exporter import DROP_REASONS, TraceExporter
from archwright.monitor.wal.writer import WalWriter
from archwright.serving.admission.authorization import RequestAuthorizer
from archwright.serving.admission.metering import CostAccounting, RecordedSpending
from archwright.serving.admission.output_lengths import OutputLengths
from archwright.serving.admission.response_cache import ResponseCache
from archwright.serving.batches.batch_runner import BatchRunner
from archwright.serving.handlers.gateway_context import GatewayContext, Recorders
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.connection import HttpServer
from archwright.serving.http.http_response import ResponseBuffer
from archwright.serving.http.listener import Listener, drain_connections, hand_over_connections
from archwright.serving.process.certificate_follower import CertificateFollower
from archwright.serving.process.config_reload import ConfigWatcher, ServedRevision, read_served_revision
from archwright.serving.process.dispatcher import Dispatcher
from archwright.serving.process.routes import LINE_ROUTES, find_admin_route
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.engine_secrets import read_store_url
from archwright.serving.settings.tls import ServedCertificate
from archwright.store import Store

MAX_OPEN_FILES = 65_536
RESERVED_FILES = 128  # beside connections; an idle worker has about 30 open
GC_THRESHOLD = 20_000
THREAD_SWITCH_S = 0.0005
CLOSE_TIMEOUT_S = 0.4  # for threads and the ledger after the requests; the master kills the worker a little later
# Measured by the supervisor, exported by this process.
SUPERVISOR_METRICS = ("peak_memory_bytes", "startup_s", "disk_bytes", "restarts")
HAND_OVER_SIGNAL = signal.SIGHUP
SUCCESSOR_POLL_S = 0.1


class WorkerContext(NamedTuple):
    """From the master. The pipe `life` closes with it, `parent` with what restarts it (None: nothing does).

    The pipe `reports` takes reports; `since`: gateway's start; `master`: its number, which a worker cannot ask once it
    is gone. `restarts`: the processes whose restarts no worker has counted.
    `certificate`: what the ports show, without it they speak plain HTTP."""

    bound: socket.socket
    admin: socket.socket | None
    life: int
    parent: int | None
    reports: int
    since: float
    master: int
    restarts: tuple[str, ...] = ()
    certificate: ServedCertificate | None = None


class _BoundedExecutor(ThreadPoolExecutor):
    """Waits at most CLOSE_TIMEOUT_S at the end for threads, which an unresponsive database may block."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        until = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in self._threads if wait else ():
            thread.join(max(0.0, until - time.monotonic()))


def run_worker(config: GatewayConfig, file: Path, home: Home, context: WorkerContext, journal: Journal) -> None:
    """Serve until SIGTERM (finish quickly) or HAND_OVER_SIGNAL (finish all); `config` was read from `file`."""
    store = Store(read_store_url(config.store_url) or home.store_url)
    addresses = split_addresses(config.audit_checkpoints)
    retention = retain_days(config.audit_retention_days, config.usage_retention_days, addresses)
    report_checkpoint = partial(_warn, journal, "audit checkpoint not written")
    checkpoints = CheckpointWriter(store, home, retention=retention, report=report_checkpoint)
    ledger = WalWriter(store, home, on_compaction=checkpoints.write_due, keeps_reserve=True)
    outbox = open_outbox(store, home, addresses, report=partial(_warn, journal, "audit delivery failed"))
    outbox.start()
    exposition = Exposition(folder=home.counters)
    for process in context.restarts:
        exposition.record("restarts", {"process": process}, 1.0)
    table, pepper = open_accounts_table(home), read_pepper(home)
    keys = KeyStore(store, pepper, table=table, background=True)
    keys.check_before_first_read(partial(check_newest_mark, store, home))
    traces = None
    if config.traces is not None:
        dropped = {reason: exposition.counter("traces_dropped", {"reason": reason}).add for reason in DROP_REASONS}
        traces = TraceExporter(config.traces, dropped, partial(_is_content_traced, keys))
    cache = ResponseCache(home, pepper) if any(spec.cache != "off" for spec in config.endpoints) else None

    def stamp() -> object:
        return keys.version, table.generation, accounts.clock_changes

    accounts = Accounts(table, keys, RecordedSpending(ledger, home, stamp, time.monotonic))
    accounting = CostAccounting(accounts, keys, journal, cache, OutputLengths())
    authorizer = RequestAuthorizer(keys, AuditLog(ledger), exposition)
    supervisor = ObservationExporter(store, Exposition(), SUPERVISOR_METRICS, since=context.since)
    follower = CertificateFollower(context.certificate, supervisor.exposition, journal)
    recorders = Recorders(ledger, exposition, traces, supervisor)
    gateway = GatewayContext(config, home, authorizer, recorders, accounting, journal)
    # Objects that exist now live as long as the process. A request makes some hundred objects and no cycle. With the
    # default threshold, a collection every seventh request would take 5 % of the time.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    # A thread compacts the ledger; the event loop waits at most this long for it.
    sys.setswitchinterval(THREAD_SWITCH_S)
    # A pipe does not split a report, which is one line.
    changes = ConfigWatcher(gateway, file, lambda note: os.write(context.reports, msgspec.json.encode(note) + b"\n"))
    try:
        life = WorkerLife(context, partial(read_served_revision, home, file.stem), journal)
        uvloop.run(_serve_until_stopped(gateway, Dispatcher(gateway, changes), context, life, follower=follower))
    finally:
        ledger.close(CLOSE_TIMEOUT_S)
        outbox.close(CLOSE_TIMEOUT_S)
        for part in (traces, exposition, store, table, cache):
            if part is not None:
                part.close()
    journal.info("stopped")


def _warn(journal: Journal, event: str, error: ArchwrightError) -> None:
    journal.warning(event, **error.as_dict())


class WorkerLife:
    """Why a worker ends. `over`: it takes no more connections. `stop`: it finishes quickly.

    Without its master it serves on until the workers of the next master do, or until nothing restarts a master.
    """

    def __init__(
        self, context: WorkerContext, read_note: Callable[[], ServedRevision | None], journal: Journal
    ) -> None:
        self.over, self.stop = asyncio.Event(), asyncio.Event()
        self._context = context
        self._read_note = read_note
        self._journal = journal
        self._waiting: asyncio.Task[None] | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(HAND_OVER_SIGNAL, self.over.set)
        loop.add_reader(self._context.life, self._lose_master, loop)

    def _end(self) -> None:
        self.stop.set()
        self.over.set()

    def _lose_master(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._context.life)
        parent = self._context.parent
        if parent is None:
            self._end()
            return
        self._journal.warning("master died", message="this worker serves until the next one does")
        loop.add_reader(parent, self._lose_parent, loop, parent)
        self._waiting = loop.create_task(self._wait_for_successor())

    def _lose_parent(self, loop: asyncio.AbstractEventLoop, parent: int) -> None:
        loop.remove_reader(parent)
        self._end()

    async def _wait_for_successor(self) -> None:
        """Wait until another master reports that its workers take requests."""
        while (note := self._read_note()) is None or note.pid == self._context.master:
            await asyncio.sleep(SUCCESSOR_POLL_S)
        self.over.set()


async def _serve_until_stopped(
    gateway: GatewayContext,
    app: Dispatcher,
    context: WorkerContext,
    life: WorkerLife,
    *,
    follower: CertificateFollower,
) -> None:
    """Serve until a signal or the master's end, then finish running requests."""
    config, loop = gateway.config, asyncio.get_running_loop()
    loop.set_default_executor(_BoundedExecutor())
    life.watch(loop)
    outbox = ResponseBuffer(_fit_connections(config, gateway.journal), gateway.now, gateway.flush)
    servers = {context.bound: HttpServer(app, outbox, config.trusted_proxies)}
    if context.admin is not None:
        manager = Dispatcher(gateway, find=find_admin_route, shared=False)
        servers[context.admin] = HttpServer(manager, outbox, config.trusted_proxies)
    certificate = context.certificate
    tls = None if certificate is None else certificate.context
    batches = BatchRunner(gateway, outbox, LINE_ROUTES)
    async with app.run_background_tasks(*servers.values()), batches.run():
        listeners = [Listener(bound, server, tls) for bound, server in servers.items()]
        for listener in listeners:
            listener.open()
        renewals = loop.create_task(follower.follow(listeners, config.limits.health_s))
        gateway.journal.info("listening", port=context.bound.getsockname()[1], host=config.host, tls=tls is not None)
        await life.over.wait()
        renewals.cancel()
        batches.stop()
        for listener in listeners:
            listener.close()
        await asyncio.gather(*(listener.wait_for_handshakes() for listener in listeners))
        if not life.stop.is_set():
            await asyncio.gather(*(hand_over_connections(server, life.stop) for server in servers.values()))
        await asyncio.gather(*(drain_connections(server) for server in servers.values()))


def _is_content_traced(keys: KeyStore, tenant: str) -> bool:
    """Return the tenant's present setting; False if it cannot be read."""
    try:
        keys.refresh_version()
    except StoreError:
        return False
    return keys.is_content_traced(tenant)


def _fit_connections(config: GatewayConfig, journal: Journal) -> ClientLimits:
    """Raise the limit of open files, and return the limits with at most the connections for which files are left.

    Store, logs and workers need up to RESERVED_FILES. Each running request needs a connection to an engine.
    """
    files = _raise_file_limit()
    left = files - min(RESERVED_FILES, files // 2)
    engines = min(sum(len(pool.addresses) * pool.slots for pool in config.pools), left // 2)
    listeners = 1 if config.admin_port is None else 2
    connections = min(config.limits.connections, (left - engines) // listeners)
    if connections < config.limits.connections:
        hint = "raise the limit of open files (LimitNOFILE, ulimit -n)"
        journal.warning("few open files", files=files, connections=connections, hint=hint)
    return replace(config.limits, connections=connections)


def _raise_file_limit() -> int:
    """Raise the limit of open files, commonly 1,024; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted

"""`python -m archwright.serving HOME CONFIG.json`: the gateway process, until the supervisor ends it."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from archwright.access.accounts import Accounts, accounts_slate
from archwright.access.audit import AuditLog
from archwright.access.identity import Keys, load_pepper
from archwright.engines.process import exit_with_parent
from archwright.errors import ArchwrightError, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.exposition import Exposition
from archwright.monitor.follow import Follower
from archwright.monitor.ledger import Ledger
from archwright.monitor.traces import REASONS, Traces
from archwright.serving.app import App
from archwright.serving.bill import Spending, Till
from archwright.serving.cache import Cache
from archwright.serving.change import Changes
from archwright.serving.config import GatewayConfig, listen, read
from archwright.serving.exchange import Outbox
from archwright.serving.gateway import Books, Gateway
from archwright.serving.guard import Guard
from archwright.serving.wire import BACKLOG, Server
from archwright.store import Store

FILES = 65_536
COLLECT_AFTER = 20_000
# What the supervisor measures, and this process shows.
SUPERVISED = ("peak_memory_bytes", "startup_s", "disk_bytes", "restarts")


def main(arguments: Sequence[str]) -> int:
    """The exit status; standard error carries the journal and, on failure, the three lines of the error."""
    journal = Journal("gateway")
    try:
        with boundary("gateway"):
            if len(arguments) != 2:
                raise UsageError("AW-USE-40", "wrong arguments", hint="python -m archwright.serving HOME CONFIG.json")
            file = Path(arguments[1])
            config = read(file)
            bound = listen(config)
            exit_with_parent()
            serve(config, file, Home(arguments[0]), bound, journal)
    except ArchwrightError as error:
        journal.error("stopped", **error.as_dict())
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status
    return 0


def serve(config: GatewayConfig, file: Path, home: Home, bound: socket.socket, journal: Journal) -> None:
    """Build the process from its parts and serve until SIGTERM; `file` is where `config` was read."""
    store = Store(config.store_url or home.store_url)
    ledger, exposition = Ledger(store, home), Exposition(folder=home.counters)
    traces = None
    if config.traces is not None:
        dropped = {reason: exposition.counter("traces_dropped", {"reason": reason}).add for reason in REASONS}
        traces = Traces(config.traces, dropped)
    slate, pepper = accounts_slate(home), load_pepper(home)
    keys = Keys(store, pepper, slate=slate)
    cache = Cache(home, pepper) if any(spec.cache != "off" for spec in config.endpoints) else None
    till = Till(Accounts(slate, keys, Spending(ledger, home)), keys, journal, cache)
    guard = Guard(keys, AuditLog(ledger), exposition)
    gateway = Gateway(config, home, guard, Books(ledger, exposition, traces), till, journal)
    gateway.follower = Follower(store, exposition, SUPERVISED, since=time.time())
    _raise_file_limit()
    # What exists now lives as long as the process; the collector need not look at it again. A request makes some
    # hundred objects and leaves no cycle: looking every seventh request, as by default, costs a twentieth of all.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    try:
        uvloop.run(_run(gateway, App(gateway, Changes(gateway, home, file)), bound))
    finally:
        ledger.close()
        if traces is not None:
            traces.close()
        exposition.close()
        store.close()
        slate.close()
        if cache is not None:
            cache.close()
    journal.info("stopped")


async def _run(gateway: Gateway, app: App, bound: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    config, loop, stop = gateway.config, asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(app, Outbox(config.limits, gateway.now, gateway.flush))
    tls = None
    if config.tls_certificate and config.tls_key:
        tls = _tls(config.tls_certificate, config.tls_key)
    async with app.running(server):
        listener = await loop.create_server(
            server.accept,
            sock=bound,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=config.limits.headers_s if tls else None,
        )
        gateway.journal.info("listening", port=bound.getsockname()[1], host=config.host, tls=tls is not None)
        await stop.wait()
        listener.close()
        await server.drain()


def _tls(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with this pair; HTTP/1.1 is what is spoken inside."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _raise_file_limit() -> None:
    """A connection is a file, and shells commonly allow 1,024: take what the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

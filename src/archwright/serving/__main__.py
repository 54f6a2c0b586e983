"""`python -m archwright.serving HOME CONFIG.json`: the gateway process, until the supervisor ends it."""

from __future__ import annotations

import gc
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from archwright.access.accounts import accounts_slate
from archwright.access.audit import AuditLog
from archwright.access.identity import Keys, load_pepper
from archwright.engines.process import exit_with_parent
from archwright.errors import ArchwrightError, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.exposition import Exposition
from archwright.monitor.follow import Follower
from archwright.monitor.ledger import Ledger
from archwright.monitor.traces import Traces
from archwright.serving.app import App
from archwright.serving.change import Changes
from archwright.serving.config import GatewayConfig, listen, read
from archwright.serving.gateway import Books, Gateway
from archwright.serving.guard import Guard
from archwright.serving.protocol import limited
from archwright.store import Store

KEEP_ALIVE_S = 75
FILES = 65_536
BACKLOG = 512
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
        traces = Traces(config.traces, exposition.counter("traces_dropped", {}).add)
    slate = accounts_slate(home)
    guard = Guard(Keys(store, load_pepper(home), slate=slate), AuditLog(ledger), exposition)
    gateway = Gateway(config, home, guard, Books(ledger, exposition, traces), journal)
    gateway.follower = Follower(store, exposition, SUPERVISED, since=time.time())
    # uvicorn raises the signal it was stopped by again when it is done: that must not look like a crash.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
    _raise_file_limit()
    # What exists now lives as long as the process; the collector need not look at it again.
    gc.freeze()
    journal.info("listening", port=bound.getsockname()[1], host=config.host, tls=bool(config.tls_certificate))
    try:
        app = App(gateway, Changes(gateway, home, file))
        uvicorn.Server(_uvicorn(config, app)).run(sockets=[bound])
    finally:
        ledger.close()
        if traces is not None:
            traces.close()
        exposition.close()
        store.close()
        slate.close()
    journal.info("stopped")


def _raise_file_limit() -> None:
    """A connection is a file, and shells commonly allow 1,024: take what the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _uvicorn(config: GatewayConfig, app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=limited(config.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(config.limits.drain_s),
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

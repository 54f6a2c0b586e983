"""`python -P -m archwright.serving HOME CONFIG.json`: the gateway's master process, until the supervisor ends it.

`--listen` and the descriptors of listening sockets may follow: then the ports stay open while the master restarts.
Another third argument comes from an older program of this process (serving/process/upgrade.py).
"""

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from archwright.access.api_keys import load_pepper
from archwright.engines.parent_watch import has_supervising_parent
from archwright.engines.process_restrictions import restrict_process
from archwright.engines.service_notification import ServiceNotifier
from archwright.errors import ArchwrightError, OperateError, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.python_process import run_entry_point
from archwright.serving.process.master import ListeningSockets, Master, MasterParts
from archwright.serving.process.upgrade import LISTEN, TRIAL
from archwright.serving.settings.config import GatewayConfig, read_config
from archwright.serving.settings.engine_secrets import read_store_url
from archwright.store import Store

PORT_TIMEOUT_S, PORT_TICK_S = 3.0, 0.02


def main(arguments: Sequence[str]) -> int:
    """Run the gateway and return its exit status. Standard error takes the journal and an error that ends it."""
    journal = Journal("gateway")
    try:
        with boundary("gateway"):
            restrict_process()
            if not 2 <= len(arguments) <= 5:
                raise UsageError(
                    "AW-USE-40", "wrong arguments", hint="python -P -m archwright.serving HOME CONFIG.json"
                )
            file = Path(arguments[1])
            config = read_config(file)
            inherited = [int(number) for number in arguments[3:]] if LISTEN in arguments else []
            if arguments[2:] and not inherited:
                parts = msgspec.json.decode(arguments[2], type=MasterParts)
                if TRIAL not in arguments:
                    _run_inherited(config, file, Home(arguments[0]), parts)
                return 0
            supervised, home = has_supervising_parent(), Home(arguments[0])
            if not supervised:
                _prepare_home(home, config)
            restarted = supervised or ServiceNotifier().is_managed
            timeout_s = PORT_TIMEOUT_S if restarted else 0.0
            bound = ListeningSockets(config, inherited) if inherited else _bind_ports(config, timeout_s)
            master = Master(config, file, home, bound, life=0 if supervised else None)
            master.start()
            status = master.wait_until_ready()
            if status == 0:
                master.run()
            return status
    except ArchwrightError as error:
        journal.error("stopped", **error.as_dict())
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


def _prepare_home(home: Home, config: GatewayConfig) -> None:
    """Do what `archwright up` does for a supervised gateway: migrate the home, make the pepper of a new one."""
    if home.root.is_dir():
        home.migrate()
    if not home.pepper.exists() or home.unsigned_rows.exists():
        with closing(Store(read_store_url(config.store_url) or home.store_url)) as store:
            load_pepper(home, store)


def _run_inherited(config: GatewayConfig, file: Path, home: Home, parts: MasterParts) -> None:
    """Continue the work of an older program of this process."""
    master = Master(config, file, home, ListeningSockets(config, parts.ports), life=parts.parent)
    master.adopt(parts)
    master.start()
    Journal("gateway").info("upgraded", workers=len(parts.workers))
    master.run()


def _bind_ports(config: GatewayConfig, timeout_s: float) -> ListeningSockets:
    """Bind the ports; a gateway that was killed needs a moment to release them. Raises OperateError AW-OPS-03."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ListeningSockets(config)
        except OperateError as error:
            if error.code != "AW-OPS-03" or time.monotonic() >= deadline:
                raise
        time.sleep(PORT_TICK_S)


if __name__ == "__main__":
    run_entry_point(main)

"""`python -P -m archwright.operate HOME UP_CALLED_AT [--attached]`: the supervisor and its parent, which restarts it.

`python -P -m archwright.operate HOME --managed BUNDLE PLAN`: the supervisor alone, for a service manager.

Design: `up` takes the home's lock and passes it on, so parent and supervisor hold it together. While the supervisor is
restarted, `up` still sees a running platform, and `down` signals the parent.
"""

import sys
import time
from importlib import import_module

from archwright.errors import ArchwrightError, boundary
from archwright.journal import Journal
from archwright.operate.process_restart import ForkedChild, RestartedProcess
from archwright.python_process import run_entry_point


def main(argv: list[str]) -> int:
    if argv[1:2] == ["--managed"]:
        return _run_managed(argv[0], *argv[2:])

    def run(child: ForkedChild) -> int:
        started_at = float(argv[1]) if child.restarts == 0 else time.time()
        module = import_module("archwright.operate.supervisor_process")  # in the child: the parent stays small
        return int(module.run_supervisor(argv[0], started_at, child, attached="--attached" in argv))

    parent = RestartedProcess("supervisor", run, Journal("parent"))
    parent.start()
    return parent.wait()


def _run_managed(root: str, bundle: str, plan: str) -> int:
    try:
        with boundary("supervisor"):
            module = import_module("archwright.operate.supervisor_process")
            return int(module.run_managed_supervisor(root, bundle, plan))
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


if __name__ == "__main__":
    run_entry_point(main)

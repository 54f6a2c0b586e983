"""`python -P -m archwright.operate HOME UP_CALLED_AT LOCK`: the first supervisor of a platform, which `up` starts.

`python -P -m archwright.operate HOME --standby HANDLES WATCHED FAILURES`: its standby, see `operate/standby.py`.
`python -P -m archwright.operate HOME --managed BUNDLE PLAN`: the supervisor alone, for a service manager.
"""

import sys
from importlib import import_module

from archwright.errors import ArchwrightError, boundary
from archwright.operate.standby import STANDBY, await_takeover
from archwright.python_process import run_entry_point


def main(argv: list[str]) -> int:
    root, word = argv[:2]
    try:
        with boundary("supervisor"):
            inherited = await_takeover(argv) if word == STANDBY else None
            module = import_module("archwright.operate.supervisor_process")  # late: a waiting standby stays small
            if inherited is not None:
                return int(module.run_next_supervisor(root, *inherited))
            if word == "--managed":
                return int(module.run_managed_supervisor(root, *argv[2:]))
            return int(module.run_first_supervisor(root, float(word), int(argv[2])))
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status


if __name__ == "__main__":
    run_entry_point(main)

"""Python child processes: their command line, and the check at their start.

Design: `python -m MODULE` searches the working folder first, so a file `msgspec.py` in a cloned repository would run in
the gateway. Each child therefore starts with `-P`, and its entry point refuses to run without it. Modules of a user
come from PYTHONPATH or from an installed package.
"""

import sys
from collections.abc import Callable
from typing import NoReturn

from archwright.errors import ArchwrightError, ErrorLocation, OperateError

SAFE_PATH = "-P"


def build_python_command(*arguments: str) -> list[str]:
    """Return the command line of a Python child; `arguments` start after the interpreter.

    `-P` is added if it is missing: bundles of older versions have launch lines without it.
    """
    options = [] if arguments[:1] == (SAFE_PATH,) else [SAFE_PATH]
    return [sys.executable, *options, *arguments]


def build_module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a child that runs `module`."""
    return build_python_command("-m", module, *arguments)


def check_safe_path() -> None:
    """Raises OperateError AW-OPS-45 if this process searches its working folder for modules."""
    if sys.flags.safe_path:
        return
    message = "this process was started without -P, so a file of its working folder could replace a module"
    hint = "start it as `python -P -m MODULE`, or set PYTHONSAFEPATH=1"
    raise OperateError("AW-OPS-45", message, where=ErrorLocation(field=" ".join(sys.orig_argv[:3])), hint=hint)


def run_entry_point(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a child process to its end: `main` gets the arguments and returns the exit status; None is 0.

    Without a safe path `main` is not called, and standard error gets the error AW-OPS-45.
    """
    try:
        check_safe_path()
    except ArchwrightError as error:
        print(error.lines(), file=sys.stderr, flush=True)
        sys.exit(error.exit_status)
    sys.exit(main(sys.argv[1:]))

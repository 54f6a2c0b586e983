"""A running gateway replaces its own program: the master executes the new code with the same process number.

Design: a service manager sees no restart, and no connection is lost. The ports and the pipes of the workers stay open
over the exec. The old workers serve until new workers take requests, as in a reload. A trial process shows first that
the new code starts and reads the configuration and the parts of the old master; else the old code stays.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen

from archwright.home import Home
from archwright.python_process import build_module_command

MODULE, TRIAL, LISTEN = "archwright.serving", "--trial", "--listen"


def start_trial(home: Home, file: Path, parts: str) -> Popen[bytes]:
    """Start the new code to read configuration and parts, and to end. Its errors go to our standard error."""
    command = build_module_command(MODULE, str(home.root), str(file), parts, TRIAL)
    return Popen(command, stdin=DEVNULL, stdout=DEVNULL)


def execute_new_code(home: Home, file: Path, parts: str, descriptors: Sequence[int]) -> None:
    """Replace the program of this process. Raises OSError if the program cannot be executed; then nothing changed."""
    try:
        for one in descriptors:
            os.set_inheritable(one, True)
        os.execv(sys.executable, build_module_command(MODULE, str(home.root), str(file), parts))
    finally:
        keep_private(descriptors)


def keep_private(descriptors: Sequence[int]) -> None:
    """Let no later program inherit the descriptors by accident; standard input stays as it was."""
    for one in descriptors:
        os.set_inheritable(one, one == 0)

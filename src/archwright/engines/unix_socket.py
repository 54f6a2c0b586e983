"""The Unix socket on which an engine listens."""

import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from archwright.errors import EngineError, ErrorLocation
from archwright.home import Home


def claim_socket(home: Home, name: str) -> Path:
    """Link the socket of `name` to the path to listen on, and return that path. Raises EngineError AW-ENG-07 if in use.

    The socket of a killed predecessor is removed.

    Sets the umask so that only the user can read new files: an engine has no keys, the socket's owner is its access
    control. A folder with the set-group-id bit is shared: then its group may connect too.
    """
    path = home.socket(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        else:
            hint = "run `archwright status`, then stop the other platform: `archwright down`"
            message = f"another engine already listens on the socket {name}"
            raise EngineError("AW-ENG-07", message, where=ErrorLocation(str(path)), hint=hint)
    os.umask(0o007 if path.parent.stat().st_mode & stat.S_ISGID else 0o077)
    listen = home.engine_socket(name)
    listen.parent.mkdir(mode=0o770, exist_ok=True)
    listen.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(listen.relative_to(path.parent))
    return listen


def leave_on_terminate(path: Path, leave: Callable[[int], object] = os._exit) -> int:
    """Let SIGTERM remove the socket and end the process at once with status 0, without cleanup.

    Returns a file descriptor that a signal makes readable. The main thread waits on it: Python runs a handler between
    two instructions, and a wait for anything else would sleep through a signal that came just before it.
    """

    def on_terminate(*_: object) -> None:
        path.unlink(missing_ok=True)
        leave(0)

    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, on_terminate)
    return woken

"""Messages to the service manager that started this process, by the protocol of sd_notify: ready, and still alive.

Without a service manager nothing is sent. A manager that gets no sign of life within its watchdog period kills the
process and starts it again.
"""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from archwright import settings

PROBE_TIMEOUT_S = 5.0
START_TICK_S = 0.05
HEALTH_REQUEST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class ServiceNotifier:
    """Sends the state of this process. `every_s`: a third of the watchdog period, 0 without a watchdog."""

    def __init__(self) -> None:
        address, self._watchdog_s = settings.read_service_manager()
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.every_s = self._watchdog_s / 3
        self._next = 0.0

    @property
    def is_managed(self) -> bool:
        return bool(self._address)

    def send(self, state: str) -> None:
        """Send a state such as READY=1. A manager that does not listen is no error."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
                channel.setblocking(False)
                channel.sendto(state.encode(), self._address)

    def report_ready(self) -> None:
        """Report that the service works, and that its watchdog period holds again after `allow_silence`."""
        self.send("READY=1")
        if self._watchdog_s:
            self._set_watchdog(self._watchdog_s)

    def allow_silence(self, limit_s: float) -> None:
        """Let the manager wait `limit_s` for the next sign of life, until `report_ready`."""
        if self._watchdog_s:
            self._set_watchdog(limit_s)

    def _set_watchdog(self, period_s: float) -> None:
        self.send(f"WATCHDOG_USEC={round(period_s * 1e6)}\nWATCHDOG=1")

    def keep_alive(self) -> None:
        """Send a sign of life if one is due. Call it from the loop whose standstill must be noticed."""
        if self.every_s and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.every_s
            self.send("WATCHDOG=1")


def report_engine_health(path: Path) -> None:
    """Report an engine ready when its socket at `path` answers, and alive as long as it answers, in a thread.

    Design: the engine is asked like a client, since its server may run in native code.
    """
    notifier = ServiceNotifier()
    if not notifier.is_managed:
        return

    def report() -> None:
        while not _is_healthy(path):
            time.sleep(START_TICK_S)
        notifier.send("READY=1")
        while notifier.every_s:
            if _is_healthy(path):
                notifier.keep_alive()
            time.sleep(notifier.every_s)

    threading.Thread(target=report, name="service-notification", daemon=True).start()


def _is_healthy(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError):
        connection.settimeout(PROBE_TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(HEALTH_REQUEST)
        return connection.recv(64).split(b" ")[1:2] == [b"200"]
    return False

"""Readiness probe: one GET over a process's Unix socket or loopback port, with a short timeout."""

import http.client
import socket
import ssl

from archwright.contract.plan import ProcessSpec
from archwright.home import Home

TIMEOUT_S = 1.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request_ready_status(
    spec: ProcessSpec, home: Home, *, tls: bool = False, timeout_s: float = TIMEOUT_S
) -> int | None:
    """Return the HTTP status of the process's ready path; None without an answer in time."""
    connection = _open_connection(spec, home, tls, timeout_s)
    try:
        connection.request("GET", spec.ready_path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _open_connection(spec: ProcessSpec, home: Home, tls: bool, timeout_s: float) -> http.client.HTTPConnection:
    if spec.ready_socket is not None:
        return _UnixConnection(str(home.socket(spec.ready_socket)), timeout_s)
    port = spec.ready_port or 0
    if tls:
        # The certificate is not verified: it may be issued for another name, and only the answer matters.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)


def is_port_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def find_free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])

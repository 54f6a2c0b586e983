"""Probes of a process: one GET over its Unix socket or loopback port, with a short timeout."""

import http.client
import re
import socket
import ssl
from typing import NamedTuple

from archwright.contract.plan import ProcessSpec
from archwright.home import Home

TIMEOUT_S = 1.0
METRICS_PATH, METRICS_LIMIT_BYTES = "/metrics", 1 << 20
_SAMPLE = re.compile(rb"^[a-z0-9_]+:([a-z_]+)(?:\{.*\})? ([0-9.eE+]+)\s*$", re.MULTILINE)
# Requests that an engine has, by the names that our engines and common servers use.
_RUNNING = {b"requests_processing", b"requests_deferred", b"num_requests_running", b"num_requests_waiting"}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class EngineActivity(NamedTuple):
    """The requests that an engine has now, and the sum of its counters, which grows with each request."""

    running: int
    served: float


def request_ready_status(
    spec: ProcessSpec, home: Home, *, tls: bool = False, timeout_s: float = TIMEOUT_S
) -> int | None:
    """Return the HTTP status of the process's ready path; None without an answer in time."""
    reply = _request(spec, home, spec.ready_path, tls, timeout_s)
    return None if reply is None else reply[0]


def read_activity(spec: ProcessSpec, home: Home, timeout_s: float = TIMEOUT_S) -> EngineActivity | None:
    """Return the activity of an engine by its metrics; None without an answer in time."""
    reply = _request(spec, home, METRICS_PATH, False, timeout_s)
    if reply is None or reply[0] != http.HTTPStatus.OK:
        return None
    samples = [(name, float(value)) for name, value in _SAMPLE.findall(reply[1])]
    running = sum(value for name, value in samples if name in _RUNNING)
    return EngineActivity(int(running), sum(value for name, value in samples if name.endswith(b"_total")))


def _request(spec: ProcessSpec, home: Home, path: str, tls: bool, timeout_s: float) -> tuple[int, bytes] | None:
    connection = _open_connection(spec, home, tls, timeout_s)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read(METRICS_LIMIT_BYTES)
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

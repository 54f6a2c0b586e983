"""Probes of a process: one GET over its Unix socket or loopback port, with a short timeout."""

import re
import socket
import ssl
from http import HTTPStatus
from typing import NamedTuple

from archwright.contract.plan import ProcessSpec
from archwright.home import Home
from archwright.http_client.blocking_client import BlockingClient, CompleteReply, NoReply

TIMEOUT_S = 1.0
METRICS_PATH, METRICS_LIMIT_BYTES = "/metrics", 1 << 20
_SAMPLE = re.compile(rb"^[a-z0-9_]+:([a-z_]+)(?:\{.*\})? ([0-9.eE+]+)\s*$", re.MULTILINE)
# Requests that an engine has, by the names that our engines and common servers use.
_RUNNING = {b"requests_processing", b"requests_deferred", b"num_requests_running", b"num_requests_waiting"}


class EngineActivity(NamedTuple):
    """The requests that an engine has now, and the sum of its counters, which grows with each request."""

    running: int
    served: float


def request_ready_status(
    spec: ProcessSpec, home: Home, *, tls: bool = False, timeout_s: float = TIMEOUT_S
) -> int | None:
    """Return the HTTP status of the process's ready path; None without an answer in time."""
    reply = _request(spec, home, spec.ready_path, tls, timeout_s)
    return None if reply is None else reply.status


def read_activity(spec: ProcessSpec, home: Home, timeout_s: float = TIMEOUT_S) -> EngineActivity | None:
    """Return the activity of an engine by its metrics; None without an answer in time."""
    reply = _request(spec, home, METRICS_PATH, False, timeout_s)
    if reply is None or reply.status != HTTPStatus.OK:
        return None
    samples = [(name, float(value)) for name, value in _SAMPLE.findall(reply.body)]
    running = sum(value for name, value in samples if name in _RUNNING)
    return EngineActivity(int(running), sum(value for name, value in samples if name.endswith(b"_total")))


def _request(spec: ProcessSpec, home: Home, path: str, tls: bool, timeout_s: float) -> CompleteReply | None:
    address = f"127.0.0.1:{spec.ready_port or 0}{path}"
    url = f"http://{address}"
    client = BlockingClient(timeout_s)
    if spec.ready_socket is not None:
        client = BlockingClient(timeout_s, unix_socket=home.socket(spec.ready_socket))
    elif tls:
        client = BlockingClient(timeout_s, tls=_trust_any_certificate())
        url = f"https://{address}"
    try:
        return client.send("GET", url, limit_bytes=METRICS_LIMIT_BYTES)
    except NoReply:
        return None


def _trust_any_certificate() -> ssl.SSLContext:
    """The certificate may be issued for another name, and only the answer matters."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


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

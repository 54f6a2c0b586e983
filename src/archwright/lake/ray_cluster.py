"""Joins a running Ray cluster for the lake and for training.

Before work starts, the cluster must answer. Each machine must run archwright and see the home under the same path,
since rows and checkpoints are read and written there.
"""

import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from archwright import settings
from archwright.errors import ErrorLocation, OperateError, require_extra
from archwright.home import Home
from archwright.python_process import check_safe_path

CONNECT_TIMEOUT_S = 10.0
START_TIMEOUT_S = 300
HINT = "check ray_address and the cluster, or leave ray_address empty to work on this machine"


def import_ray(purpose: str) -> Any:
    """Ray without telemetry. Raises MissingError AW-GET-01."""
    settings.disable_telemetry()
    with require_extra("ray", purpose):
        import ray  # noqa: PLC0415
    return ray


def join_cluster(ray: Any, address: str, variables: Mapping[str, str]) -> None:
    """Become a driver; workers get the environment `variables`. Raises OperateError AW-OPS-60."""
    check_reachable(address)
    start_ray(ray, address, {"address": address}, variables)


def start_ray(ray: Any, address: str, options: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """Raises OperateError AW-OPS-60.

    Ray puts the working folder of its driver first in the search path of its workers, so the driver leaves it.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    runtime_env = {"env_vars": {**variables, **settings.SAFE_PATH_ENVIRONMENT}}
    try:
        with _abort_after(START_TIMEOUT_S), settings.enforce_safe_path(), chdir("/"):
            ray.init(**options, **quiet, runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise cluster_error(address, error) from error


@contextmanager
def _abort_after(seconds: int) -> Iterator[None]:
    """SIGALRM ends this process: without Python on a node Ray blocks all threads forever (observed)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_reachable(address: str) -> None:
    """Ray retries an unreachable address for ten minutes (measured). Raises OperateError AW-OPS-60."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise cluster_error(address, ValueError("the address is not HOST:PORT"))
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise cluster_error(address, error) from error


def cluster_error(address: str, error: Exception) -> OperateError:
    problem = f"no Ray answers at {address}" if address else "Ray does not start on this machine"
    where = ErrorLocation(field="ray_address")
    return OperateError("AW-OPS-60", f"{problem}: {first_line(error)}", where=where, hint=HINT)


def list_nodes(ray: Any) -> list[Mapping[str, Any]]:
    """Ray's records of the nodes that can take work."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def probe_shared_home(folder: str, machine: str, token: str) -> str:
    """Runs on a node. Returns the reason why the node cannot use the home, empty if it can."""
    try:
        check_safe_path()
        if (Path(folder) / "token").read_text() != token:
            return "it sees another folder under this path"
        (Path(folder) / machine).write_text(token)
    except (OSError, OperateError) as error:
        return first_line(error)
    return ""


def check_home(ray: Any, home: Home) -> None:
    """Check that each node reads and writes the same home as this machine. Raises OperateError AW-OPS-61."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity  # noqa: PLC0415

    token, found = secrets.token_hex(8), list_nodes(ray)
    names = [str(node["NodeID"]) for node in found]
    asked = ray.remote(num_cpus=0)(probe_shared_home)
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=home.folder("run")))
    try:
        (folder / "token").write_text(token)
        there = [asked.options(scheduling_strategy=Affinity(name, soft=False)) for name in names]
        flaws = ray.get([task.remote(str(folder), name, token) for task, name in zip(there, names, strict=True)])
        arrived = [(folder / name).exists() for name in names]
    except ray.exceptions.RayError as error:
        flaw = f"it cannot run archwright ({first_line(error)})"
        raise _unsuitable_node_error("a machine of the cluster", flaw, home) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for node, flaw, written in zip(found, flaws, arrived, strict=True):
        flaw = flaw or ("" if written else "a file that it writes does not arrive on this machine")
        if flaw:
            raise _unsuitable_node_error(f"the machine {node['NodeManagerAddress']}", flaw, home)


def _unsuitable_node_error(machine: str, flaw: str, home: Home) -> OperateError:
    hint = "share the home under the same path on each machine, and install archwright on each machine"
    message = f"{machine} cannot take part: {flaw}"
    return OperateError("AW-OPS-61", message, where=ErrorLocation(str(home.root)), hint=hint)


def first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)

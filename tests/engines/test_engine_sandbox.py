"""What code inside an engine process can do: each attack beside the same act in a process without limits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.serving.conftest import check_restricted, null_engine, read_process_status
from tests.tools.checks import refuses

from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig
from archwright.engines.engine_sandbox import confine_engine, list_missing_controls
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.lifecycle.evaluation_engine import run_engine

from .conftest import SMALL_MODEL, make_config
from .onnx_models import model, put

pytestmark = [pytest.mark.process, pytest.mark.enable_socket]
ROOT = Path(__file__).parents[2]
# Runs as an engine does: main() starts, and `serve` of the engine is the attack.
PROGRAM = """
import ctypes, fcntl, json, os, resource, signal, socket, sys
from pathlib import Path
from typing import Any, NamedTuple
from archwright.engines import __main__ as engine, null
from archwright.engines.engine_config import read_config
from archwright.home import Home
when, root, file, port, victim = sys.argv[1], *sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5])
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def connect(family, address):
    with socket.socket(family) as client:
        client.connect(address)
def send(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", address)
def send_from_pair(address):
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
        with end:
            end.sendto(b"x", address)
def share_memory():
    number = libc.shmget(0, 4096, 0o600)
    call(libc.shmctl, number, 0, None)
def own(config, home):
    path = home.engine_socket(config.socket)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    path.unlink()
def attack(config, home, journal):
    run, pair = home.folder("run"), socket.socketpair()
    acts = {
        "read pepper": lambda: home.pepper.read_bytes(),
        "read database": lambda: (home.root / "archwright.db").read_bytes(),
        "read TLS key": lambda: (home.root.parent / "tls.key").read_bytes(),
        "read users": lambda: Path("/etc/passwd").read_bytes(),
        "read other model": lambda: home.model("b" * 64).read_bytes(),
        "read environment": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "list home": lambda: os.listdir(home.root),
        "write gateway": lambda: (run / "gateway.json").write_text("{}"),
        "write library": lambda: (home.root.parent / "library" / "module.py").write_text(""),
        "remove state": lambda: (run / "state.json").unlink(),
        "make socket": lambda: socket.socket(socket.AF_UNIX).bind(str(run / "other.sock")),
        "make link": lambda: (run / "link").symlink_to("/etc"),
        "connect TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "listen TCP": lambda: socket.create_server(("127.0.0.1", 0)),
        "connect service": lambda: connect(socket.AF_UNIX, str(home.root.parent / "service.sock")),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "start program": lambda: when == "before" or os.execv("/bin/true", ["true"]),
        "signal": lambda: os.kill(victim, 0),
        "signal of descriptor": lambda: fcntl.fcntl(pair[0], fcntl.F_SETOWN, victim),
        "signal of ioctl": lambda: fcntl.ioctl(pair[0], 0x8901, victim.to_bytes(4, sys.byteorder)),
        "handle of process": lambda: os.pidfd_open(victim),
        "limit of process": lambda: resource.prlimit(victim, resource.RLIMIT_CPU),
        "datagram": lambda: send(str(home.root.parent / "log.sock")),
        "datagram of pair": lambda: send_from_pair(str(home.root.parent / "log.sock")),
        "priority of process": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        "processors of process": lambda: os.sched_setaffinity(victim, {min(os.sched_getaffinity(0))}),
        "scheduler of process": lambda: os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0)),
        "shared memory": share_memory,
        "memory of process": lambda: open(f"/proc/{victim}/mem", "rb"),
        "namespace": lambda: when == "before" or call(libc.unshare, 0x10000000),
    }
    permitted = {
        "read own model": lambda: home.model("a" * 64).read_bytes(),
        "listen on own socket": lambda: own(config, home),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "choose own processors": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "late import": lambda: __import__("wave"),
    }
    results = {}
    for name, act in {**acts, **permitted}.items():
        try:
            act()
            results[name] = name in permitted
        except OSError as error:
            results[name] = name not in permitted and error.errno in (1, 13)
    os.write(1, json.dumps(results).encode())
if when == "before":
    config, home = read_config(Path(file)), Home(root)
    engine.claim_socket(home, config.socket)
    attack(config, home, None)
else:
    null.serve = attack
    sys.exit(engine.main([root, file]))
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with secrets, two models of which one is a link, and files that a platform has."""
    home = Home(tmp_path / "home")
    home.pepper.write_bytes(b"p" * 32)
    (home.root / "archwright.db").write_bytes(b"rows")
    (tmp_path / "tls.key").write_text("key")
    (tmp_path / "weights").write_bytes(b"weights")
    home.model("a" * 64).symlink_to(tmp_path / "weights")
    home.model("b" * 64).write_bytes(b"others")
    (tmp_path / "library").mkdir()
    for name in ("gateway.json", "state.json"):
        (home.folder("run") / name).write_text("{}")
    return home


def run_attack(home: Home, when: str) -> dict[str, bool]:
    """Return for each act whether its result is that of a confined engine."""
    config = replace(null_engine("null"), model_sha256="a" * 64)
    file = home.config(config.socket)
    file.write_bytes(msgspec.json.encode(config))
    with ExitStack() as stack:
        victim = stack.enter_context(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        stack.callback(victim.kill)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        service = stack.enter_context(socket.socket(socket.AF_UNIX))
        service.bind(str(home.root.parent / "service.sock"))
        service.listen()
        log = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log.bind(str(home.root.parent / "log.sock"))
        words = [when, str(home.root), str(file), str(server.getsockname()[1]), str(victim.pid)]
        environment = {**os.environ, "PYTHONPATH": str(home.root.parent / "library")}
        command = [sys.executable, "-c", PROGRAM, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    results: dict[str, bool] = json.loads(done.stdout)
    return results


def test_without_limits_every_attack_succeeds(home: Home) -> None:
    results = run_attack(home, "before")
    permitted = {"read own model", "listen on own socket", "signal itself", "choose own processors", "late import"}
    assert {name for name, refused in results.items() if refused} == permitted


def test_an_engine_reaches_its_model_and_its_socket_and_nothing_else(home: Home) -> None:
    assert list_missing_controls() == ()
    results = run_attack(home, "after")
    assert len(results) == 35
    assert [name for name, refused in results.items() if not refused] == []
    assert home.config("gateway").exists() and (home.folder("run") / "state.json").exists()


class StartedEngine(NamedTuple):
    """A real engine in its home, and a request that it must answer."""

    home: Home
    config: EngineConfig
    path: str
    body: dict[str, Any]


def list_engines(model_home: Home, folder: Path) -> Iterator[StartedEngine]:
    llama = make_config("llamacpp", socket="gate-1", context_tokens=64, model_sha256=SMALL_MODEL.sha256)
    yield StartedEngine(model_home, llama, "/v1/completions", {"prompt": "One, two,", "max_tokens": 2})
    home = Home(folder / "home")
    onnx = make_config("onnx", socket="gate-2", model_sha256=put(home, model().SerializeToString()))
    yield StartedEngine(home, onnx, "/v1/predict", {"inputs": [[0, 0, 0]]})


async def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    client = EngineClient(address)
    try:
        return await client.post(path, body)
    finally:
        await client.close()


def test_real_engines_answer_in_the_sandbox_and_end_before_their_parent(model_home: Home, tmp_path: Path) -> None:
    own_score = int(Path("/proc/self/oom_score_adj").read_text())
    for home, config, path, body in list_engines(model_home, tmp_path):
        with run_engine(home, config) as engine:
            assert asyncio.run(post(engine.address, path, body)), config.engine
            check_restricted(engine.pid)
            for task in Path(f"/proc/{engine.pid}/task").iterdir():
                status = read_process_status(int(task.name))
                assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), config.engine
            score = int(Path(f"/proc/{engine.pid}/oom_score_adj").read_text())
            assert score == min(own_score + 500, 1000)
        assert not home.socket(config.socket).is_symlink()
        assert not home.engine_socket(config.socket).parent.exists()


def test_an_engine_with_a_second_thread_does_not_start(tmp_path: Path) -> None:
    program = (
        "import sys, threading, msgspec; from archwright.engines import __main__ as engine;"
        "threading.Thread(target=sys.stdin.read, daemon=True).start(); sys.exit(engine.main(sys.argv[1:]))"
    )
    config = null_engine("null")
    file = Home(tmp_path / "home").config(config.socket)
    file.write_bytes(msgspec.json.encode(config))
    command = [sys.executable, "-c", program, str(tmp_path / "home"), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert "AW-ENG-23" in said and "threads have started already" in said, said


def test_a_confinement_that_the_kernel_refuses_is_a_coded_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "archwright.engines.engine_sandbox"
    monkeypatch.setattr(f"{module}.gain_no_privileges", lambda: os.stat(tmp_path / "missing"))
    monkeypatch.setattr(f"{module}._require_single_thread", lambda: None)
    with refuses("AW-ENG-23", "cannot give up its rights"):
        confine_engine(null_engine("null"), Home(tmp_path / "home"))

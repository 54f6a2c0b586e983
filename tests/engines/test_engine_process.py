"""What an engine process gets: no secret of its parent, no new privileges, no core dump, and its own user."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.serving.conftest import check_restricted, null_engine, read_process_status
from tests.tools.checks import refuses, until

from archwright.contract.plan import ProcessSpec
from archwright.home import Home
from archwright.lifecycle.evaluation_engine import run_engine
from archwright.operate.child_process import ChildProcess, LaunchContext
from archwright.operate.resource_usage import memory_bytes
from archwright.operate.standby import PlatformHandles

CANARY = "sk-canary-0123456789"
SECRETS = (
    "VENDOR_KEY",
    "NVIDIA_API_KEY",
    "LC_SECRET",
    "AWS_SECRET_ACCESS_KEY",
    "ARCHWRIGHT_DATABASE_URL",
    "PGPASSWORD",
)
USER = "nobody"


@pytest.fixture(autouse=True)
def secrets(processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")


def spec_of(**changes: object) -> ProcessSpec:
    name = "null"
    config = msgspec.to_builtins(null_engine(name)) | changes
    argv, environment = ("-P", "-m", "archwright.engines", "{home}", "{config}"), {"GOMP_SPINCOUNT": "1000"}
    return ProcessSpec(name=name, argv=argv, config=config, environment=environment, ready_socket=name)


@contextmanager
def started(home: Home, user: str = "", **changes: object) -> Iterator[ChildProcess]:
    """A real engine, as the supervisor starts it, that answers its probe."""
    life, life_end = os.pipe()
    context = LaunchContext(user, PlatformHandles(-1, life, life_end, ()), {})
    child = ChildProcess(spec_of(**changes), home, tls=False, context=context)
    try:
        child.start(time.time())
        until(lambda: child.probe() or child.exit_status() is not None)
        assert child.exit_status() is None, child.read_last_error()
        yield child
    finally:
        child.stop(5.0)
        os.close(life)
        os.close(life_end)


def check_environment(pid: int) -> None:
    environment = dict(pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_text().split("\0") if pair)
    assert CANARY not in environment.values() and not {*SECRETS} & {*environment}
    found = {name: environment.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "GOMP_SPINCOUNT")}
    assert found == {"CUDA_VISIBLE_DEVICES": "1", "LD_LIBRARY_PATH": "/opt/lib", "GOMP_SPINCOUNT": "1000"}
    assert environment["PATH"] == os.environ["PATH"]


def test_an_engine_gets_no_secret_and_is_restricted(tmp_path: Path) -> None:
    with started(Home(tmp_path / "home")) as child:
        check_environment(child.pid)
        check_restricted(child.pid)
        assert memory_bytes([child.pid]), "the supervisor can still measure it"


def test_an_engine_of_an_evaluation_gets_no_secret_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHWRIGHT_DATABASE_URL")
    home = Home(tmp_path / "home")
    with run_engine(home, null_engine("gate-0")):
        found = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(home.root) in read_text(path)]
        assert len(found) == 1
        check_environment(int(found[0]))
        check_restricted(int(found[0]))


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def test_an_engine_with_its_own_user_reads_no_other_file_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, account = Home(tmp_path / ("long-" * 20) / "home"), pwd.getpwnam(USER)
    home.pepper.write_bytes(b"p" * 32)
    model = home.model("a" * 64)
    model.write_bytes(b"weights")
    model.chmod(0o600)
    part = home.model_folder("b" * 64) / "1_Pooling" / "config.json"
    part.parent.mkdir(parents=True)
    part.write_text("{}")
    if os.geteuid() != 0:
        with refuses("AW-OPS-23", "only root"), started(home, USER):
            pass
        return
    python = find_python(account)
    monkeypatch.setattr(sys, "executable", python or sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    if python is None:
        with refuses("AW-OPS-23", "cannot run"), started(home, USER):
            pass
        return
    with started(home, USER, model_sha256="b" * 64, adapter_sha256="a" * 64) as child:
        check_environment(child.pid)
        check_restricted(child.pid)
        status = read_process_status(child.pid)
        assert status["Uid"].split() == [str(account.pw_uid)] * 4 and status["Gid"].split() == [str(account.pw_gid)] * 4
        assert status["CapEff"] == "0" * 16
        assert stat_as(account, home.pepper) and stat_as(account, home.root)
        assert memory_bytes([child.pid])
        shared = home.engine_root("null") / part.relative_to(home.root)
        assert shared.read_text() == "{}" and shared.stat().st_gid == account.pw_gid
        assert {one.stat().st_uid for one in (shared.parent, shared.parent.parent)} == {account.pw_uid}
        first = child.pid
        child.stop(5.0)
        child.start(time.time())  # a restart
        until(child.probe)
        assert child.pid != first
    child.remove_files()
    assert not home.socket("null").is_symlink() and not home.engine_root("null").exists() and model.exists()


def find_python(account: pwd.struct_passwd) -> str | None:
    """Return an interpreter of this version that the account can run; None if there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            subprocess.run([python, "-c", "0"], user=account.pw_uid, group=account.pw_gid, cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


def stat_as(account: pwd.struct_passwd, path: Path) -> int:
    command = ["/bin/ls", str(path)]
    done = subprocess.run(
        command, user=account.pw_uid, group=account.pw_gid, extra_groups=[], capture_output=True, check=False
    )
    return done.returncode


def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with refuses("AW-OPS-23", "no-such-user"), started(Home(tmp_path / "home"), "no-such-user"):
        pass

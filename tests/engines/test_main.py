from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import pytest

from archwright.contract.record import replace
from archwright.engines import null
from archwright.engines.__main__ import main
from archwright.engines.engine_config import EngineConfig
from archwright.errors import EngineError, MissingError, UsageError
from archwright.home import Home
from archwright.journal import Journal

from .test_engine_config import CONFIG


@pytest.fixture(autouse=True)
def unsupervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """No parent, and no restrictions, which the process of the tests would keep."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr("archwright.engines.__main__.prepare_process", lambda *_: None)


def _main(folder: Path, config: EngineConfig) -> int:
    path = folder / "c.json"
    path.write_bytes(msgspec.json.encode(config))
    return main([str(folder), str(path)])


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one"]) == UsageError.exit_status
    assert "HOME CONFIG.json" in capsys.readouterr().err


def test_an_error_is_in_the_journal_and_in_three_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, engine="llamacpp", settings={}, model_sha256="0" * 64)
    assert _main(tmp_path, config) == MissingError.exit_status
    journal, *lines = capsys.readouterr().err.splitlines()
    entry = json.loads(journal)
    assert (entry["process"], entry["event"], entry["code"]) == ("chat", "stopped", "AW-GET-02")
    assert [line.split()[0] for line in lines[:1]] == ["AW-GET-02"] and "models fetch m" in lines[-1]


def test_a_missing_or_broken_configuration(tmp_path: Path) -> None:
    assert main([str(tmp_path), str(tmp_path / "none.json")]) == UsageError.exit_status
    (tmp_path / "c.json").write_text("{}")
    assert main([str(tmp_path), str(tmp_path / "c.json")]) == EngineError.exit_status


def test_an_engine_that_ends_by_itself_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[EngineConfig, Path]] = []

    def serve(config: EngineConfig, home: Home, journal: Journal) -> None:
        started.append((config, home.root))

    monkeypatch.setattr(null, "serve", serve)
    assert _main(tmp_path, CONFIG) == 0
    assert started == [(CONFIG, Path(os.path.abspath(tmp_path)))]

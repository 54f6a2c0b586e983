"""A missing tool fails a test and names its package; documents and the Makefile name the same tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import tools

ROOT = Path(__file__).parents[2]


def test_a_missing_program_fails_with_its_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(pytest.fail.Exception, match="apt-get install prometheus"):
        tools.require_program("promtool")


def test_a_missing_package_fails_with_its_name() -> None:
    with pytest.raises(pytest.fail.Exception, match="PyPI package no-such"):
        tools.require_module("no_such_module", package="no-such")


def test_a_missing_environment_fails_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="make tools"):
        tools.require_environment("terraform")


def test_make_builds_each_environment_from_its_pins() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pins = {path.stem: path.read_text().split() for path in ROOT.glob("tests/*/environments/*.txt")}
    assert pins.keys() == tools.ENVIRONMENTS.keys()
    assert all("==" in pin for lines in pins.values() for pin in lines)
    assert all(f".venv-{name}" in makefile for name in pins)


def test_the_documents_name_each_debian_package() -> None:
    text = (ROOT / "docs" / "tests.md").read_text()
    assert [package for package in sorted(set(tools.PROGRAMS.values())) if package not in text] == []

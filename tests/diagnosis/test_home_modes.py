"""Modes of a home and of secret files that settings name."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import api
from archwright.api import doctor
from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.home_modes import check_modes
from archwright.home import Home


def test_an_open_home_is_a_failure(home: Home) -> None:
    api.key.create()
    assert check_modes(home.root).state == "ok"
    home.root.chmod(0o755)
    found = check_modes(home.root)
    assert found.state == "failure" and "0755" in found.detail and "archwright key rotate" in found.hint


def test_an_open_secret_in_a_closed_home_is_a_warning(home: Home) -> None:
    """Nobody reaches it today; a copy with its modes would be open."""
    api.key.create()
    model = home.model("0" * 64)
    model.write_bytes(b"")
    model.chmod(0o640)
    assert check_modes(home.root).state == "ok", "engines with a user of their own read models by their group"
    home.pepper.chmod(0o644)
    found = check_modes(home.root)
    assert found.state == "warning" and "pepper" in found.detail and "chmod -R go=" in found.hint


def test_an_open_key_outside_the_home_is_a_failure(home: Home, tmp_path: Path) -> None:
    home.folder()
    key = tmp_path / "tls.key"
    key.write_bytes(b"")
    key.chmod(0o600)
    assert check_modes(home.root, [str(key), str(tmp_path / "absent")]).state == "ok"
    key.chmod(0o644)
    found = check_modes(home.root, [str(key)])
    assert found.state == "failure" and f"chmod 0600 {key}" in found.hint


@pytest.mark.enable_socket
def test_doctor_says_that_a_home_was_open_before_it_closes_it(home: Home) -> None:
    api.key.create()
    home.root.chmod(0o755)

    def find_modes() -> DoctorCheck:
        return next(check for check in doctor(deep=True) if check.name == "modes")

    assert find_modes().state == "failure"
    assert find_modes().state == "ok"

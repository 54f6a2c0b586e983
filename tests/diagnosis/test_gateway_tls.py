"""Certificates: the one that a gateway sends, and the file of the settings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.serving.conftest import certified

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.gateway_tls import DAY_S, check_tls
from archwright.home import Home


@pytest.mark.process
def test_the_file_of_the_settings_counts_if_no_gateway_runs(home: Home, tmp_path: Path) -> None:
    assert check_tls((), "", time.time())[0].state == "ok"
    file, _key = certified(tmp_path, days=90)
    now = time.time()

    def judge(days: float) -> DoctorCheck:
        (checked,) = check_tls((), file, now + days * DAY_S)
        return checked

    assert judge(0).state == "ok" and "valid for 90 days" in judge(0).detail
    assert [judge(days).state for days in (68, 70, 91, -1)] == ["ok", "warning", "failure", "failure"]
    assert "clock" in judge(-1).hint


@pytest.mark.process
def test_a_short_certificate_is_renewed_in_the_last_third_of_its_life(home: Home, tmp_path: Path) -> None:
    file, _key = certified(tmp_path, days=6)
    now = time.time()
    assert check_tls((), file, now + 3 * DAY_S)[0].state == "ok"
    assert check_tls((), file, now + 5 * DAY_S)[0].state == "warning"

"""The line that names the step of a long command."""

from __future__ import annotations

import io
import re
import time
from functools import partial

import pytest
from tests.tools.checks import until

from archwright.cli.step_display import ERASE_LINE, show_steps
from archwright.journal import report_step

from ..command_line import Terminal


def is_shown(out: io.StringIO, step: str) -> bool:
    return f"{step} ... " in out.getvalue()


def test_a_long_command_names_its_steps_and_erases_the_line() -> None:
    out = Terminal()
    with show_steps(out, hidden=False, delay_s=0.0):
        for step in ("probing this machine", "comparing the options"):
            report_step(step)
            until(partial(is_shown, out, step))
    text = out.getvalue()
    line = re.escape(f"{ERASE_LINE}probing this machine ... ") + r"\d+ s" + re.escape(ERASE_LINE)
    assert re.search(line, text)
    assert "comparing the options" in text and text.endswith(ERASE_LINE)


@pytest.mark.parametrize(
    ("out", "hidden", "delay_s"), [(Terminal(), True, 0.0), (io.StringIO(), False, 0.0), (Terminal(), False, 60.0)]
)
def test_json_a_file_and_a_short_command_show_nothing(out: io.StringIO, hidden: bool, delay_s: float) -> None:
    with show_steps(out, hidden=hidden, delay_s=delay_s):
        report_step("probing this machine")
    assert out.getvalue() == ""


def test_a_failure_erases_the_line_too() -> None:
    out = Terminal()
    with pytest.raises(ValueError, match="broken"), show_steps(out, hidden=False, delay_s=0.0):
        report_step("probing this machine")
        time.sleep(0.05)
        raise ValueError("broken")
    assert out.getvalue().endswith(ERASE_LINE)

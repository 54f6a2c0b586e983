"""The command line in the process of a test, and the errors of calls."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from archwright.cli import main
from archwright.errors import ERROR_CLASSES, ArchwrightError


class CommandLine:
    """Runs one line of words, checks its exit status, and returns what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, line: str, status: int = 0) -> tuple[str, str]:
        """Return standard output and standard error."""
        self._capsys.readouterr()
        found = main(shlex.split(line))
        out, err = self._capsys.readouterr()
        assert found == status, (line, out, err)
        return out, err

    def text(self, line: str, status: int = 0) -> str:
        return self.run(line, status)[0]

    def json(self, line: str) -> Any:
        return json.loads(self.text(f"{line} --json"))

    def error(self, line: str, status: int) -> str:
        return self.run(line, status)[1]

    def json_error(self, line: str, status: int) -> Any:
        return json.loads(self.error(f"{line} --json", status))

    def printed(self, show: Callable[[Any], int], result: object) -> str:
        """Return what a function of `archwright.cli` prints of a result."""
        self._capsys.readouterr()
        assert show(result) == 0
        return self._capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def error_of(code: str, call: Callable[..., object], *args: Any, **options: Any) -> ArchwrightError:
    """Return the error of the call; it has this code, and the class of the code."""
    with pytest.raises(ArchwrightError) as caught:
        call(*args, **options)
    assert caught.value.code == code, caught.value.lines()
    assert isinstance(caught.value, ERROR_CLASSES[code.split("-")[1]])
    return caught.value


def squeeze(text: str) -> list[str]:
    """Return the lines of a text with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines()]

"""The exception tree: every class has its exit status and HTTP status; an error is three lines."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
from docs.error_codes import read_error_codes

from archwright import errors
from archwright.errors import (
    ArchwrightError,
    ErrorLocation,
    InternalError,
    NeedsError,
    OperateError,
    UsageError,
    boundary,
)

SOURCE = Path(errors.__file__).parent


def every_class(root: type[ArchwrightError] = ArchwrightError) -> list[type[ArchwrightError]]:
    return [root, *(each for child in root.__subclasses__() for each in every_class(child))]


def test_the_tree_of_the_docstring_is_the_tree_of_the_code() -> None:
    ours = [cls for cls in every_class() if cls.__module__ == errors.__name__]
    for cls in ours:
        line = next(line for line in (errors.__doc__ or "").splitlines() if cls.__name__ in line)
        if "exit" in line:
            assert f"exit {cls.exit_status}, HTTP {cls.http_status}" in line
    assert len(ours) == 18
    for cls in every_class(errors.InputError):
        assert (cls.exit_status, cls.http_status) == (2, 400)


def test_every_code_in_the_docstring_finds_its_class() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if "-- " in line and "AW-" in line]
    assert (
        len(lines) == len(errors.ERROR_CLASSES) + 2
    )  # Refusal is the gateway's own, UnknownSubjectError is a DataError
    for word, cls in errors.ERROR_CLASSES.items():
        assert f"AW-{word}-" in next(line for line in lines if f"-- {cls.__name__} " in line)


def test_three_lines() -> None:
    error = NeedsError(
        "AW-NEEDS-07",
        "unknown field 'trafic'",
        where=ErrorLocation("needs.yaml", 21, "workloads[0].trafic"),
        hint="did you mean traffic?",
        nearest=("traffic",),
    )
    assert error.lines() == (
        "AW-NEEDS-07  unknown field 'trafic'\n"
        "             needs.yaml:21  workloads[0].trafic\n"
        "             did you mean traffic?"
    )
    assert json.loads(json.dumps(error.as_dict())) == {
        "code": "AW-NEEDS-07",
        "message": "unknown field 'trafic'",
        "where": {"file": "needs.yaml", "line": 21, "field": "workloads[0].trafic"},
        "hint": "did you mean traffic?",
        "nearest": ["traffic"],
    }
    assert str(error) == "unknown field 'trafic'"


def test_what_is_not_known_leaves_no_empty_line() -> None:
    assert UsageError("AW-USE-02", "no").lines() == "AW-USE-02  no"
    assert UsageError("AW-USE-02", "no", hint="yes").lines() == "AW-USE-02  no\n           yes"


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (ErrorLocation(), ""),
        (ErrorLocation("f"), "f"),
        (ErrorLocation("f", 3), "f:3"),
        (ErrorLocation("f", None, "a.b"), "f  a.b"),
        (ErrorLocation(None, None, "a.b"), "a.b"),
    ],
)
def test_places(where: ErrorLocation, text: str) -> None:
    assert str(where) == text


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        *((number, "AW-OPS-01", 8) for number in (errno.ENOSPC, errno.EDQUOT)),
        *((number, "AW-OPS-02", 8) for number in (errno.EACCES, errno.EPERM, errno.EROFS)),
        (errno.EADDRINUSE, "AW-OPS-03", 8),
        *((number, "AW-USE-01", 2) for number in (errno.ENOENT, errno.EISDIR)),
        (errno.EIO, "AW-OPS-04", 8),
    ],
)
def test_what_the_system_refuses_is_the_users_world(number: int, code: str, status: int) -> None:
    found = errors.from_os_error(OSError(number, "reason", "/some/file"))
    assert (found.code, found.exit_status, found.where.file) == (code, status, "/some/file")
    assert found.hint


def test_an_error_without_a_file_or_number() -> None:
    found = errors.from_os_error(OSError("odd"))
    assert (found.code, found.where, found.message) == ("AW-OPS-04", ErrorLocation(), "the system refused: odd")


def test_a_missing_extra_says_the_line_that_installs_it() -> None:
    error = errors.missing_extra("local", "numpy", "the probe")
    assert (error.code, error.hint) == ("AW-GET-01", "pip install 'archwright[local]'")


def test_an_import_that_fails_names_its_extra() -> None:
    with pytest.raises(errors.MissingError) as caught, errors.require_extra("local", "the probe"):
        import archwright.nowhere  # type: ignore[import-not-found] # noqa: F401, PLC0415
    assert caught.value.lines() == errors.missing_extra("local", "archwright.nowhere", "the probe").lines()


def test_the_boundary_lets_ours_pass() -> None:
    ours = UsageError("AW-USE-02", "no")
    with pytest.raises(UsageError) as caught, boundary("test"):
        raise ours
    assert caught.value is ours
    with boundary("test"):
        pass


def test_the_boundary_names_what_the_system_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught, boundary("test"):
        (tmp_path / "missing").read_text()
    assert caught.value.where.file == str(tmp_path / "missing")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(OperateError), boundary("test"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_the_boundary_turns_the_rest_into_our_bug() -> None:
    with (
        pytest.raises(InternalError, match=r"a bug in archwright \(worker\): KeyError: 'x'") as caught,
        boundary("worker"),
    ):
        raise KeyError("x")
    assert isinstance(caught.value.__cause__, KeyError)
    assert (caught.value.exit_status, caught.value.code) == (70, "AW-INT-01")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_boundary_does_not_stop_an_exit(kind: type[BaseException]) -> None:
    with pytest.raises(kind), boundary("test"):
        raise kind


def test_a_hint_to_restore_names_the_command() -> None:
    """An operator under stress copies a line; "restore it from a backup" is none."""
    hints = [text.hint for texts in read_error_codes(SOURCE).values() for text in texts]
    to_restore = [hint for hint in hints if re.search(r"\brestor\w+ .*\bbackup|\brestored backup", hint)]
    assert len(to_restore) >= 20
    assert [hint for hint in to_restore if "archwright restore" not in hint] == []

"""The mark of a test follows from what it uses, and a unit test that uses more fails."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from .kinds import Guard, find_kind


@pytest.mark.parametrize(
    ("marks", "fixtures", "kind"),
    [
        ([], ["tmp_path", "home"], "unit"),
        (["parametrize"], [], "unit"),
        ([], ["null", "processes"], "process"),
        (["enable_socket"], [], "process"),
        (["process"], [], "process"),
        ([], ["llama", "model_home", "processes"], "model"),
        (["enable_socket"], ["learning"], "model"),
        (["process"], ["model_home"], "model"),
        (["nightly", "enable_socket"], ["model_home"], "nightly"),
    ],
)
def test_the_heaviest_that_a_test_uses_is_its_kind(marks: list[str], fixtures: list[str], kind: str) -> None:
    assert find_kind(marks, fixtures) == kind


def start(guard: Guard) -> None:
    guard.hear("subprocess.Popen", ("true",))


def connect(guard: Guard) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        guard.hear("socket.connect", (made, "here"))  # stays on the machine, as an event loop's own do
    guard.hear("socket.connect", (Network(), ("127.0.0.1", 80)))


class Network:
    family = socket.AF_INET


def load(guard: Guard) -> None:
    guard.hear("import", ("xllamacpp", None))


@pytest.mark.parametrize(
    ("use", "said"),
    [(start, "starts a process"), (connect, "opens a network"), (load, "the engine"), (Guard.hear_step, "trains")],
)
def test_a_unit_test_is_refused_what_others_may(
    use: Callable[[Guard], None], said: str, request: pytest.FixtureRequest
) -> None:
    guard = Guard()
    use(guard)  # nobody is watched
    with pytest.raises(pytest.fail.Exception, match=said), guard.watching(request.node):
        use(guard)


def test_what_was_refused_and_swallowed_fails_the_test_at_its_end(request: pytest.FixtureRequest) -> None:
    guard = Guard()
    with pytest.raises(pytest.fail.Exception, match="starts a process"), guard.watching(request.node):
        try:
            start(guard)
        except BaseException as swallowed:  # noqa: BLE001 - as in a thread
            assert "kinds.py" in str(swallowed)

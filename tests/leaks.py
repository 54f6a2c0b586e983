"""Charge a warning of a destructor to the test that caused it.

A file, socket or process that nobody closed warns when it is destroyed (ResourceWarning). Reference counting destroys
most of them at once, but an object in a cycle, or held by the traceback of a failure, waits for a garbage collection,
which may run during any later test. So objects are collected at the end of the test, and of the file, that made them.

A test that leaves another umask fails too: files that a later test makes for another user would be closed to that user.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

# Younger generations hold what a test made; older objects are collected at the end of each file.
YOUNG = 1


@pytest.fixture(autouse=True)
def collect_leaks_of_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Destroy what the test left behind, before pytest looks for warnings of destructors at the end of the test.

    As the first fixture of a test it is the last to be torn down.
    """
    umask = read_umask()
    yield
    if isinstance(request.node, pytest.Function):
        request.node.funcargs.clear()  # their fixtures have ended
    if hasattr(sys, "last_value"):  # the traceback of a failure, for debuggers
        del sys.last_type, sys.last_value, sys.last_traceback
    gc.collect(YOUNG)
    left = os.umask(umask)
    assert left == umask, f"the test left the umask {left:#o} instead of {umask:#o}"


def read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@pytest.fixture(scope="module", autouse=True)
def collect_leaks_of_file() -> Iterator[None]:
    """Destroy what the file's fixtures and failed tests left behind, at the end of its last test.

    What is left then are caches and fixtures of the session. They are frozen: to visit them again at the end of each
    file took a third of the CPU time of all tests.
    """
    yield
    gc.collect()
    gc.freeze()

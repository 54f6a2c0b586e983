"""The measure of dense lines counts what its docstring says."""

import ast
from pathlib import Path

import pytest
from tests.size import (
    find_excess,
    list_changed_lines,
    list_packages,
    list_statements,
    measure_path,
    measure_statements,
    read_limits,
)

SAMPLE = """
def add(left, right):
    '''Documentation does not count.'''
    one, total = left, left + right
    host, port = total
    return [item for item in one if item] if port else host
"""


def test_a_header_counts_without_its_body_and_docstring() -> None:
    size = measure_statements(list_statements(ast.parse(SAMPLE)))
    # In order: the arguments of add, the unpacking, the assignment of two values, the return.
    assert size.nodes == (3, 8, 15, 16)
    assert (size.multiple_assignments, size.comprehensions, size.conditional_expressions) == (1, 1, 1)
    assert (size.bindings, size.vague_bindings) == (7, 1)
    assert size.mean == 10.5 and size.p90 == 16 and size.large_share == 0


SIGNATURES = """
class Record:
    def change(self, first, second, third): ...
    def store(self, first, second, third, fourth): ...

def draw(point: tuple[int, int], names: tuple[str, ...], row: tuple[str, int], *, size, depth): ...
"""


def test_parameters_by_position_and_tuples_of_different_things_are_counted() -> None:
    size = measure_statements(list_statements(ast.parse(SIGNATURES)))
    assert (size.positional_parameters, size.mixed_tuples) == (1, 1)


def test_what_is_added_keeps_the_goals_and_what_is_there_becomes_no_denser() -> None:
    size = measure_statements(list_statements(ast.parse(SAMPLE)))
    recorded = {"statements": len(size.nodes), **size.list_counts()}
    assert find_excess(size, recorded) == {}
    assert find_excess(size, {**recorded, "comprehensions": 0}) == {"comprehensions": "1, limit 0"}
    before = {**recorded, "statements": 3, "nodes": 30}
    assert find_excess(size, before) == {"nodes": "42, limit 40"}, "one statement more may have 10 nodes"


@pytest.mark.parametrize("package", list_packages(), ids=lambda package: package.name)
def test_no_package_becomes_denser(package: Path) -> None:
    limits = read_limits().get(package.name)
    assert limits is not None, f"{package.name} has no limits: run python -m tests.size --record"
    assert find_excess(measure_path(package), limits) == {}, f"limits: {limits}"


def test_a_file_without_statements_has_no_size(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    size = measure_path(empty)
    assert (size.nodes, size.mean, size.p90) == ((), 0, 0)


def test_lines_of_a_file_that_did_not_change_are_left_out(processes: None) -> None:
    assert list_changed_lines("HEAD", Path("LICENSE")) == set()

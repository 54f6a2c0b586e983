"""The measure of dense lines counts what its docstring says."""

import ast
from pathlib import Path

from tests.size import list_changed_lines, list_statements, measure_path, measure_statements

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


def test_a_file_without_statements_has_no_size(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    size = measure_path(empty)
    assert (size.nodes, size.mean, size.p90) == ((), 0, 0)


def test_lines_of_a_file_that_did_not_change_are_left_out(processes: None) -> None:
    assert list_changed_lines("HEAD", Path("LICENSE")) == set()

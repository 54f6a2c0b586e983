"""Measure how dense the lines of the source are, in nodes of the syntax tree per statement.

    python -m tests.size [--since COMMIT] [PATH...]
    python -m tests.size --record

Without PATH, each package of `src/archwright` gets a row. With `--since`, only statements count whose first line was
added or changed after COMMIT, in the files of git. `--record` writes the counts of today to `tests/size_limits.csv`,
unless one is above its limit. `tests/test_size.py` holds each package to them: what is added keeps the goals, and what
is there may only become better.

A statement counts the nodes of its header: nested bodies and docstrings are left out, contexts and operators count. No
formatter changes this number. Rates are per 1,000 statements.
"""

from __future__ import annotations

import argparse
import ast
import csv
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "archwright"
LIMITS_FILE = Path(__file__).parent / "size_limits.csv"
BODY_FIELDS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})
# A statement above this count of nodes is hard to read.
LARGE_STATEMENT = 40
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Local names that do not say what the value is.
VAGUE_NAMES = {
    *("one", "each", "other", "others", "rest", "thing", "things", "place", "least", "over"),
    *("found", "known", "kept", "made", "stated", "given", "asked", "told"),
}
MAX_POSITIONAL = 3
GOALS = {
    "nodes": 10_000,
    "above_20_nodes": 100,
    "above_40_nodes": 10,
    "multiple_assignments": 0,
    "comprehensions": 15,
    "conditional_expressions": 12,
    "vague_bindings": 10,
    "positional_parameters": 0,
    "mixed_tuples": 0,
}
"""The goal of each count, for 1,000 statements."""
HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")


class Size(NamedTuple):
    """The measures of a set of statements; `nodes`: one count per statement, sorted.

    `positional_parameters`: functions with more than MAX_POSITIONAL of them. `mixed_tuples`: parameters that are a
    tuple of different things.
    """

    nodes: tuple[int, ...]
    multiple_assignments: int
    comprehensions: int
    conditional_expressions: int
    bindings: int
    vague_bindings: int
    positional_parameters: int
    mixed_tuples: int

    @property
    def mean(self) -> float:
        return sum(self.nodes) / max(1, len(self.nodes))

    @property
    def p90(self) -> int:
        return self.nodes[len(self.nodes) * 9 // 10] if self.nodes else 0

    @property
    def large_share(self) -> float:
        return self.count_above(LARGE_STATEMENT) / max(1, len(self.nodes))

    def per_thousand(self, count: int) -> float:
        return 1000 * count / max(1, len(self.nodes))

    def count_above(self, nodes: int) -> int:
        return len([count for count in self.nodes if count > nodes])

    def list_counts(self) -> dict[str, int]:
        """Return the counts that have a goal."""
        return {
            "nodes": sum(self.nodes),
            "above_20_nodes": self.count_above(20),
            "above_40_nodes": self.count_above(LARGE_STATEMENT),
            "multiple_assignments": self.multiple_assignments,
            "comprehensions": self.comprehensions,
            "conditional_expressions": self.conditional_expressions,
            "vague_bindings": self.vague_bindings,
            "positional_parameters": self.positional_parameters,
            "mixed_tuples": self.mixed_tuples,
        }


def list_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a module at every depth, without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not is_docstring(node):
            yield node


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def list_header_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the nodes below a statement that are not in a nested body."""
    waiting: list[ast.AST] = []
    for field, value in ast.iter_fields(statement):
        if field in BODY_FIELDS:
            continue
        values = value if isinstance(value, list) else [value]
        waiting += [child for child in values if isinstance(child, ast.AST)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += ast.iter_child_nodes(node)


def assigns_several_values(statement: ast.stmt) -> bool:
    """True for `a, b = x, y`; unpacking one value is no such assignment."""
    if not isinstance(statement, ast.Assign):
        return False
    return isinstance(statement.value, ast.Tuple) and isinstance(statement.targets[0], ast.Tuple)


def measure_statements(statements: Iterable[ast.stmt]) -> Size:
    """Return the measures of these statements."""
    counts: list[int] = []
    multiple = comprehensions = conditionals = bindings = vague = positional = mixed = 0
    for statement in statements:
        nodes = list(list_header_nodes(statement))
        counts.append(len(nodes))
        multiple += assigns_several_values(statement)
        comprehensions += sum(isinstance(node, COMPREHENSIONS) for node in nodes)
        conditionals += sum(isinstance(node, ast.IfExp) for node in nodes)
        names = list(list_bound_names(nodes))
        bindings += len(names)
        vague += sum(name in VAGUE_NAMES for name in names)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            positional += count_positional(statement.args) > MAX_POSITIONAL
            mixed += sum(is_mixed_tuple(parameter) for parameter in list_parameters(statement.args))
    return Size(tuple(sorted(counts)), multiple, comprehensions, conditionals, bindings, vague, positional, mixed)


def count_positional(arguments: ast.arguments) -> int:
    """Count the parameters that a caller may give by position, without `self` and `cls`."""
    names = [parameter.arg for parameter in (*arguments.posonlyargs, *arguments.args)]
    return len(names[1:] if names[:1] in (["self"], ["cls"]) else names)


def list_parameters(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def is_mixed_tuple(parameter: ast.arg) -> bool:
    """True for `pair: tuple[A, B]`; `tuple[A, A]` and `tuple[A, ...]` hold things of one kind."""
    annotation = parameter.annotation
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        return False
    is_tuple = isinstance(annotation.value, ast.Name) and annotation.value.id == "tuple"
    kinds = {ast.dump(kind) for kind in annotation.slice.elts if not is_ellipsis(kind)}
    return is_tuple and len(kinds) > 1


def is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def list_bound_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names of variables and parameters that these nodes bind."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def list_changed_lines(commit: str, path: Path) -> set[int]:
    """Return the numbers of the lines of a file that were added or changed after a commit."""
    command = ["git", "diff", "-U0", commit, "--", str(path)]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines: set[int] = set()
    for line in diff.splitlines():
        hunk = HUNK.match(line)
        if hunk is not None:
            first = int(hunk[1])
            count = int(hunk[2] or 1)
            lines.update(range(first, first + count))
    return lines


def list_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def measure_path(path: Path, since: str | None = None) -> Size:
    """Return the measures of a file or folder; `since`: of the statements that changed after this commit."""
    statements: list[ast.stmt] = []
    for file in list_files(path):
        in_file = list_statements(ast.parse(file.read_text(encoding="utf-8")))
        if since is None:
            statements += in_file
        else:
            changed = list_changed_lines(since, file)
            statements += [statement for statement in in_file if statement.lineno in changed]
    return measure_statements(statements)


def list_packages() -> list[Path]:
    return sorted(path.parent for path in SOURCE.glob("*/__init__.py"))


def read_limits() -> dict[str, dict[str, int]]:
    """Return the recorded counts by package, `statements` among them."""
    with LIMITS_FILE.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    return {row.pop("package"): {name: int(value) for name, value in row.items()} for row in rows}


def find_excess(size: Size, recorded: dict[str, int]) -> dict[str, str]:
    """Return the counts that are above their limit: what was recorded, and the goal for each statement since."""
    statements = len(size.nodes)
    added = max(0, statements - recorded["statements"])
    excess: dict[str, str] = {}
    for name, count in size.list_counts().items():
        goal = GOALS[name] / 1000
        limit = max(recorded[name] + added * goal, statements * goal)
        if count > limit:
            excess[name] = f"{count}, limit {limit:.0f}"
    return excess


def record_limits() -> None:
    """Record the counts of every package. Raises SystemExit if one is above its limit."""
    recorded = read_limits() if LIMITS_FILE.exists() else {}
    rows = []
    for package in list_packages():
        size = measure_path(package)
        counts = {"statements": len(size.nodes), **size.list_counts()}
        excess = find_excess(size, recorded.get(package.name, counts))
        if excess:
            raise SystemExit(f"{package.name} is above its limits: {excess}")
        rows.append([package.name, *counts.values()])
    with LIMITS_FILE.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["package", "statements", *GOALS])
        writer.writerows(rows)


def format_row(name: str, size: Size) -> str:
    vague = size.vague_bindings / max(1, size.bindings)
    columns = (
        f"{len(size.nodes):>10,}",
        f"{sum(size.nodes):>9,}",
        f"{size.mean:>6.1f}",
        f"{size.p90:>4}",
        f"{size.large_share:>6.1%}",
        f"{size.per_thousand(size.multiple_assignments):>9.1f}",
        f"{size.per_thousand(size.comprehensions):>7.1f}",
        f"{size.per_thousand(size.conditional_expressions):>8.1f}",
        f"{vague:>7.1%}",
        f"{size.per_thousand(size.positional_parameters):>11.1f}",
        f"{size.per_thousand(size.mixed_tuples):>7.1f}",
    )
    return f"{name:<34}" + "".join(columns)


HEADER = f"{'package':<34}statements    nodes  mean p90   > 40 multiple  compr. ternary  vague positional tuples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders")
    parser.add_argument("--since", metavar="COMMIT", help="count only what changed after this commit")
    parser.add_argument("--record", action="store_true", help="record the counts of today as limits")
    arguments = parser.parse_args()
    if arguments.record:
        record_limits()
        return
    print(HEADER)
    for path in arguments.paths or list_packages():
        size = measure_path(path, arguments.since)
        if size.nodes:
            print(format_row(path.name, size))
    if not arguments.paths:
        print(format_row("all of src/archwright", measure_path(SOURCE, arguments.since)))


if __name__ == "__main__":
    main()

"""Measure how dense the lines of the source are, in nodes of the syntax tree per statement.

    python -m tests.size [--since COMMIT] [PATH...]

Without PATH, each package of `src/archwright` gets a row. With `--since`, only statements count whose first line was
added or changed after COMMIT, in the files of git.

A statement counts the nodes of its header: nested bodies and docstrings are left out, contexts and operators count. No
formatter changes this number. Rates are per 1,000 statements.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "archwright"
BODY_FIELDS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})
# A statement above this count of nodes is hard to read.
LARGE_STATEMENT = 40
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Local names that do not say what the value is.
VAGUE_NAMES = {
    *("one", "each", "other", "others", "rest", "thing", "things", "place", "least", "over"),
    *("found", "known", "kept", "made", "stated", "given", "asked", "told"),
}
HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")


class Size(NamedTuple):
    """The measures of a set of statements; `nodes`: one count per statement, sorted."""

    nodes: tuple[int, ...]
    multiple_assignments: int
    comprehensions: int
    conditional_expressions: int
    bindings: int
    vague_bindings: int

    @property
    def mean(self) -> float:
        return sum(self.nodes) / max(1, len(self.nodes))

    @property
    def p90(self) -> int:
        return self.nodes[len(self.nodes) * 9 // 10] if self.nodes else 0

    @property
    def large_share(self) -> float:
        large = [count for count in self.nodes if count > LARGE_STATEMENT]
        return len(large) / max(1, len(self.nodes))

    def per_thousand(self, count: int) -> float:
        return 1000 * count / max(1, len(self.nodes))


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
    multiple = comprehensions = conditionals = bindings = vague = 0
    for statement in statements:
        nodes = list(list_header_nodes(statement))
        counts.append(len(nodes))
        multiple += assigns_several_values(statement)
        comprehensions += sum(isinstance(node, COMPREHENSIONS) for node in nodes)
        conditionals += sum(isinstance(node, ast.IfExp) for node in nodes)
        names = list(list_bound_names(nodes))
        bindings += len(names)
        vague += sum(name in VAGUE_NAMES for name in names)
    return Size(tuple(sorted(counts)), multiple, comprehensions, conditionals, bindings, vague)


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
    )
    return f"{name:<34}" + "".join(columns)


HEADER = f"{'package':<34}statements    nodes  mean p90   > 40 multiple  compr. ternary  vague"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders")
    parser.add_argument("--since", metavar="COMMIT", help="count only what changed after this commit")
    arguments = parser.parse_args()
    packages = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))
    print(HEADER)
    for path in arguments.paths or packages:
        size = measure_path(path, arguments.since)
        if size.nodes:
            print(format_row(path.name, size))
    if not arguments.paths:
        print(format_row("all of src/archwright", measure_path(SOURCE, arguments.since)))


if __name__ == "__main__":
    main()

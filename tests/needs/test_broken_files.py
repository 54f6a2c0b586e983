"""Broken needs files: each error names file, line and field. broken_files.yaml has all that are not computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tests.examples import read_example

from archwright.errors import NeedsError

DESK = read_example("desk")
CASES = yaml.load((Path(__file__).parent / "broken_files.yaml").read_text(), Loader=yaml.CSafeLoader)


class Broken(NamedTuple):
    """A file, and the error that is expected."""

    data: bytes
    error: int
    line: int | None
    field: str | None
    part: str
    nearest: str = ""
    hint: str = ""


def edit(old: str, new: str, file: str = DESK) -> bytes:
    """Change one place of a good file."""
    assert old in file, old
    return file.replace(old, new, 1).encode()


def build_case(row: dict[str, Any]) -> Broken:
    file, old, new = read_example(row.get("file", "desk")), row.get("old"), row["new"]
    data = new.encode() if old is None else edit(old, new, file)
    stated = (row["error"], row["line"], row.get("field"), row["part"], row.get("nearest", ""), row.get("hint", ""))
    return Broken(data, *stated)


DEEPEST = ".".join(["a"] * 32)
WORKLOADS = DESK[DESK.index("workloads:") : DESK.index("data:\n")]
PARSING = """workloads:
  - name: scans
    kind: document-parsing
    slo: {preset: reading}
    traffic: {documents: 500, refresh: day}
"""
GOAL = "a private assistant on this machine"
COMPUTED: dict[str, Broken] = {
    "not UTF-8": Broken(b"version: 1\norganisation: {name: M\xfcller}\n", 3, 2, None, "byte 0xfc"),
    "UTF-16": Broken("version: 1\n".encode("utf-16"), 3, 1, None, "UTF-8"),
    "second byte order mark": Broken(b"\xef\xbb\xbf\xef\xbb\xbfversion: 1\n", 3, 1, None, "U+FEFF"),
    "too large": Broken(b"#" * (256 * 1024 + 1), 2, None, None, "262,145 bytes"),
    "two documents": Broken(f"{DESK}---\nversion: 1\n".encode(), 5, 21, None, "more than one"),
    "duplicate at the top": Broken(f"{DESK}version: 1\n".encode(), 6, 21, "version", "first is on line 2"),
    "5,000 brackets": Broken(b"version: 1\nworkloads: " + b"[" * 5000, 5, 2, "workloads[0]", "nested too deeply"),
    "5,000 closed brackets": Broken(b"a: " + b"[" * 5000 + b"]" * 5000, 5, 1, "a[0]", "nested too deeply"),
    "5,000 braces": Broken(b"{a: " * 5000, 5, 1, DEEPEST, "nested too deeply"),
    "5,000 dashes": Broken(b"- " * 5000, 5, 1, "[0]" * 32, "nested too deeply"),
    "500 indented levels": Broken("".join(" " * n + "a:\n" for n in range(500)).encode(), 5, 33, DEEPEST, "nested"),
    "100,000 keys": Broken(f"{{{','.join(f'{n:05}:' for n in range(100_000))}}}".encode(), 2, None, None, "bytes"),
    "many keys": Broken("\n".join(f"k{n}: " for n in range(20_000)).encode(), 2, 10_000, "k9999", "20000 entries"),
    "many items": Broken(b"a: [" + b"x," * 130_000 + b"]", 2, 1, "a[19997]", "20000 entries"),
    "long scalar": Broken(edit("Desk", "x" * 250_000), 13, 3, "organisation.name", "250,000 characters"),
    "long quoted scalar": Broken(edit("Desk", f'"{"x " * 120_000}"'), 13, 3, "organisation.name", "240,000 characters"),
    "no budget": Broken(DESK[: DESK.index("budget:")].encode(), 9, 2, "budget", "budget is missing"),
    "9,000 digits": Broken(edit("month: 60", f"month: {'9' * 9000}"), 10, 20, "budget.per_month", "must be a number"),
    "no workload": Broken(edit(WORKLOADS, "workloads: []\n"), 9, 6, "workloads", "no workload"),
    "limits of a kind without any": Broken(
        edit(WORKLOADS, PARSING), 17, 9, "workloads[0].slo.preset", "no field", hint="document-parsing takes no slo;"
    ),
    "long goal": Broken(edit(GOAL, "x" * 5000), 13, 5, "goals[0].text", "5,000 characters"),
}
BROKEN = {**{row["name"]: build_case(row) for row in CASES}, **COMPUTED}


def test_every_case_has_its_own_name() -> None:
    assert len(BROKEN) == len(CASES) + len(COMPUTED)


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_file(name: str, refused: Callable[[bytes], NeedsError]) -> None:
    case = BROKEN[name]
    error = refused(case.data)
    found = (error.code, error.where.line, error.where.field)
    assert found == (f"AW-NEEDS-{case.error:02d}", case.line, case.field), error.lines()
    assert case.part in error.message
    assert not case.nearest or case.nearest in error.nearest
    assert case.hint in error.hint

"""plan.json: the same bytes for the same plan, and a clear answer to anything else."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from archwright.contract.plan import Plan
from archwright.errors import PlanFileError
from archwright.plan.plan_file import MAX_PLAN_BYTES, read_plan, write_plan

from .conftest import Change, edit


def broken(path: Path, data: bytes) -> PlanFileError:
    path.write_bytes(data)
    with pytest.raises(PlanFileError) as caught:
        read_plan(path)
    return caught.value


def changed(plan: Plan, path: Path, change: Change) -> PlanFileError:
    """The error of a plan file with a changed field."""
    document = json.loads(msgspec.json.encode(plan))
    change(document)
    return broken(path, json.dumps(document).encode())


def test_what_was_written_is_read_back(desk: Plan, plan_file: Path) -> None:
    write_plan(desk, plan_file)
    assert read_plan(plan_file) == desk
    assert read_plan(plan_file).digest == desk.digest


def test_the_same_plan_is_the_same_bytes(desk: Plan, plan_file: Path) -> None:
    write_plan(desk, plan_file)
    first = plan_file.read_bytes()
    write_plan(read_plan(plan_file), plan_file)
    assert plan_file.read_bytes() == first
    assert first.startswith(b"{\n") and first.endswith(b"}\n")
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert stat.S_IMODE(plan_file.stat().st_mode) == 0o644


def test_a_missing_file_says_how_to_make_one(plan_file: Path) -> None:
    with pytest.raises(PlanFileError) as caught:
        read_plan(plan_file)
    assert caught.value.code == "AW-FILE-01"
    assert "archwright plan" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "line"), [(b"", 1), (b"\n\nnot json", 3), (b'{\n"version": 1,\n', 3), (b'{"version": 1,\n"a": "\xff"}', 2)]
)
def test_not_json_names_the_line(plan_file: Path, data: bytes, line: int) -> None:
    error = broken(plan_file, data)
    assert error.code == "AW-FILE-02"
    assert error.where.line == line


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"version": "one"}', b'{"version": 1}', b'{"version": 1, "x": 2}'])
def test_json_that_is_no_plan(plan_file: Path, data: bytes) -> None:
    assert broken(plan_file, data).code == "AW-FILE-03"


def test_another_version_is_named_before_anything_else(plan_file: Path) -> None:
    error = broken(plan_file, b'{"version": 2, "anything": []}')
    assert error.code == "AW-FILE-04"
    assert "version 2" in error.message


def test_a_wrong_field_is_named(desk: Plan, plan_file: Path) -> None:
    error = changed(desk, plan_file, edit({"pools.0.slots": "many"}))
    assert (error.code, error.where.field) == ("AW-FILE-03", "pools[0].slots")


def test_an_estimate_out_of_order_is_refused(desk: Plan, plan_file: Path) -> None:
    assert changed(desk, plan_file, edit({"predictions.0.estimate.low": 1e9})).code == "AW-FILE-03"


def test_a_choice_among_nothing_is_refused(desk: Plan, plan_file: Path) -> None:
    error = changed(desk, plan_file, edit({"chosen": "elsewhere"}))
    assert (error.code, error.where.field) == ("AW-FILE-03", "chosen")


def test_a_huge_file_is_not_read(plan_file: Path) -> None:
    with plan_file.open("wb") as file:
        file.truncate(MAX_PLAN_BYTES + 1)
    with pytest.raises(PlanFileError) as caught:
        read_plan(plan_file)
    assert caught.value.code == "AW-FILE-05"


@pytest.mark.parametrize("head", [b'{"version": 1, "x": ', b'{"options": '])
def test_deep_nesting_ends_in_an_answer(plan_file: Path, head: bytes) -> None:
    assert broken(plan_file, head + b"[" * 100_000 + b"]" * 100_000 + b"}").code in ("AW-FILE-02", "AW-FILE-03")


def test_a_needs_file_says_what_makes_a_plan_of_it(plan_file: Path) -> None:
    error = broken(plan_file, b"version: 1\norganisation: {name: T}\nworkloads:\n  - name: a\n")
    assert (error.code, error.message) == ("AW-FILE-02", "this is a needs file, not a plan")
    assert f"archwright plan {plan_file} -o plan.json" in error.hint

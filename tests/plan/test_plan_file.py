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

from .conftest import edit


def broken(path: Path, data: bytes) -> PlanFileError:
    path.write_bytes(data)
    with pytest.raises(PlanFileError) as caught:
        read_plan(path)
    return caught.value


def test_the_same_plan_is_the_same_bytes_and_read_back(desk: Plan, plan_file: Path) -> None:
    write_plan(desk, plan_file)
    first, read = plan_file.read_bytes(), read_plan(plan_file)
    assert (read, read.digest) == (desk, desk.digest)
    write_plan(read, plan_file)
    assert plan_file.read_bytes() == first
    assert first.startswith(b"{\n") and first.endswith(b"}\n")
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert stat.S_IMODE(plan_file.stat().st_mode) == 0o644


def test_a_missing_file_says_how_to_make_one(plan_file: Path) -> None:
    with pytest.raises(PlanFileError) as caught:
        read_plan(plan_file)
    assert caught.value.code == "AW-FILE-01"
    assert "archwright plan" in caught.value.hint


NESTED = b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("data", "codes", "line"),
    [
        (b"", "AW-FILE-02", 1),
        (b"\n\nnot json", "AW-FILE-02", 3),
        (b'{\n"version": 1,\n', "AW-FILE-02", 3),
        (b'{"version": 1,\n"a": "\xff"}', "AW-FILE-02", 2),
        *((data, "AW-FILE-03", None) for data in (b"[]", b"{}", b'{"version": "one"}', b'{"version": 1}')),
        (b'{"version": 1, "x": 2}', "AW-FILE-03", None),
        (b'{"version": 2, "anything": []}', "AW-FILE-04", None),
        (b'{"version": 1, "x": ' + NESTED, "AW-FILE-02 AW-FILE-03", None),
        (b'{"options": ' + NESTED, "AW-FILE-02 AW-FILE-03", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_plan_of_this_version_is_refused(plan_file: Path, data: bytes, codes: str, line: int | None) -> None:
    error = broken(plan_file, data)
    assert error.code in codes
    assert line is None or error.where.line == line
    assert error.code != "AW-FILE-04" or "version 2" in error.message


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("pools.0.slots", "many", "pools[0].slots"),
        ("predictions.0.estimate.low", 1e9, "predictions[0].estimate"),
        ("chosen", "elsewhere", "chosen"),
    ],
)
def test_a_wrong_field_is_named(desk: Plan, plan_file: Path, path: str, value: object, field: str) -> None:
    document = json.loads(msgspec.json.encode(desk))
    edit({path: value})(document)
    error = broken(plan_file, json.dumps(document).encode())
    assert (error.code, error.where.field) == ("AW-FILE-03", field)


def test_a_huge_file_is_not_read(plan_file: Path) -> None:
    with plan_file.open("wb") as file:
        file.truncate(MAX_PLAN_BYTES + 1)
    with pytest.raises(PlanFileError) as caught:
        read_plan(plan_file)
    assert caught.value.code == "AW-FILE-05"


def test_a_needs_file_says_what_makes_a_plan_of_it(plan_file: Path) -> None:
    error = broken(plan_file, b"version: 1\norganisation: {name: T}\nworkloads:\n  - name: a\n")
    assert (error.code, error.message) == ("AW-FILE-02", "this is a needs file, not a plan")
    assert f"archwright plan {plan_file} -o plan.json" in error.hint

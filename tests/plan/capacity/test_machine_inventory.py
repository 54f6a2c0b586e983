"""Which machines of an inventory run which model for how many people."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import api
from archwright.contract.machine_inventory import InventoryPlan, ModelAssignment
from archwright.errors import CatalogError, PlanFileError, UsageError

from ...command_line import CommandLine

OFFICE = """name,count,memory_gb
MacBook Pro M4 Max,12,64
4x RTX 4090,1,
Core i7-1185G7,40,16
8x H100,1,
EPYC 9654,2,384 GB
"""
HEAD = "name,count,memory_gb\n"


def plan(tmp_path: Path, text: str, **arguments: object) -> InventoryPlan:
    path = tmp_path / "machines.csv"
    path.write_text(text, encoding="utf-8")
    return api.predict_inventory(str(path), **arguments)  # type: ignore[arg-type]


def count_people(assignment: ModelAssignment) -> float:
    return assignment.people.value if assignment.people is not None else 0.0


def test_each_machine_gets_the_best_model_that_keeps_the_limits(tmp_path: Path) -> None:
    found = plan(tmp_path, OFFICE)
    by_machine = {one.machine: one for one in found.assignments}
    servers, laptop = by_machine["8x H100"], by_machine["Core i7-1185G7"]
    assert servers.quality > by_machine["MacBook Pro M4 Max"].quality
    assert laptop.model == "" and "comes nearest" in laptop.reason
    for one in found.assignments:
        if one.model:
            assert one.ttft_p95_s is not None and one.ttft_p95_s.value <= 2.0
            assert one.tpot_p95_s is not None and one.tpot_p95_s.value <= 0.12
            assert one.people is not None and one.people.low < one.people.value < one.people.high
    assert found.people.value == pytest.approx(sum(count_people(one) for one in found.assignments))


def test_looser_limits_give_a_model_that_is_no_worse_and_more_machines_serve(tmp_path: Path) -> None:
    strict, loose = plan(tmp_path, OFFICE), plan(tmp_path, OFFICE, ttft_p95_s=30, tpot_p95_s=0.5)
    pairs = list(zip(strict.assignments, loose.assignments, strict=True))
    assert all(after.quality >= before.quality for before, after in pairs)
    assert any(after.model and not before.model for before, after in pairs)


def test_twice_the_machines_serve_twice_the_people(tmp_path: Path) -> None:
    one, two = plan(tmp_path, HEAD + "8x H100,1,\n"), plan(tmp_path, HEAD + "8x H100,2,\n")
    assert two.people.value == pytest.approx(2 * one.people.value)


def test_more_people_get_a_model_that_is_no_better(tmp_path: Path) -> None:
    few, many = plan(tmp_path, OFFICE, people=100), plan(tmp_path, OFFICE, people=40_000)
    assert few.people.value >= 100 and few.model
    assert many.people.value > few.people.value
    assert max(one.quality for one in many.assignments) <= max(one.quality for one in few.assignments)
    assert {one.model for one in many.assignments} - {""} == {many.model}


def test_one_model_for_all_says_where_it_runs(tmp_path: Path) -> None:
    found = plan(tmp_path, OFFICE, model="Qwen3-8B", ttft_p95_s=10)
    assert {one.model for one in found.assignments} - {""} == {"Qwen3-8B"} == {found.model}
    with pytest.raises(CatalogError) as caught:
        plan(tmp_path, OFFICE, model="No-Such-Model")
    assert caught.value.code == "AW-CAT-01"


def test_memory_decides_what_fits(tmp_path: Path) -> None:
    asked = {"model": "Llama-3.3-70B-Instruct", "ttft_p95_s": 300.0, "tpot_p95_s": 10.0}
    small, large = (plan(tmp_path, HEAD + f"M4 Max,1,{size}\n", **asked) for size in (36, 128))
    assert small.assignments[0].reason == "no model fits its memory"
    assert large.assignments[0].model == "Llama-3.3-70B-Instruct"
    (unstated,) = plan(tmp_path, HEAD + "EPYC 9654,1,\n").assignments
    assert unstated.model == "" and "state its memory" in unstated.reason


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "no column count, name"),
        ("name\nM4 Max\n", 1, "no column count"),
        (HEAD, 1, "no machines"),
        (HEAD + ",3,\n", 2, "names no machine"),
        (HEAD + "M4 Max,1,\nMacbok X,3,\n", 3, "Macbok X"),
        (HEAD + "M4 Max,0,\n", 2, "out of range"),
        (HEAD + "M4 Max,1.5,\n", 2, "count of 1.5"),
        (HEAD + "M4 Max,nan,\n", 2, "out of range"),
        (HEAD + "M4 Max,1,much\n", 2, "not a number"),
        (HEAD + "M4 Max,1,\n" * 1001, 1002, "more than 1,000 rows"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(PlanFileError) as caught:
        plan(tmp_path, text)
    assert caught.value.code == "AW-FILE-23" and said in caught.value.message
    assert caught.value.where is not None and caught.value.where.line == line


def test_a_missing_or_binary_file_and_contradicting_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanFileError):
        api.predict_inventory(str(tmp_path / "none.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanFileError):
        api.predict_inventory(str(tmp_path / "binary.csv"))
    for arguments in ({"people": 0}, {"people": 5, "model": "Qwen3-8B"}, {"ttft_p95_s": -1}):
        with pytest.raises(UsageError):
            plan(tmp_path, OFFICE, **arguments)


def test_the_table_names_machines_models_people_and_what_it_rests_on(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    path.write_text(OFFICE, encoding="utf-8")
    shown = cli.text(f"predict inventory {path}")
    for word in ("8x H100", "all machines serve", "nobody", "comes nearest", "busiest hour", "TTFT p95 at most 2 s"):
        assert word in shown
    assert cli.json(f"predict inventory {path}")["people"]["value"] > 0

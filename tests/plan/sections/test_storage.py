"""The storage section: what is kept, where, why there, and who demands it."""

from __future__ import annotations

import pytest

from archwright.contract.decision import SectionLine
from archwright.contract.needs import ExistingComponent, Traffic
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.sections.storage import build_storage_section

from ..cost.test_operating_costs import (
    CASES,
    CATALOG,
    Case,
    clinic_at_home,
    desk_here,
    manufacturer_in_both,
    needs_of,
    startup_by_the_token,
    startup_in_a_cloud,
)
from .test_network import chosen_of


def line_of(case: Case, topic: str) -> SectionLine:
    (line,) = [line for line in build_storage_section(chosen_of(case)).lines if line.topic == topic]
    return line


@pytest.mark.parametrize("case", [make() for make in CASES])
def test_every_line_says_what_why_and_what_else(case: Case) -> None:
    chosen = chosen_of(case)
    section = build_storage_section(chosen)
    assert section.id == "storage" and section.lines
    for line in section.lines:
        assert line.choice and line.why and line.alternative and line.why_not
        assert all(clause.split()[0] in chosen.needs.regulations for clause in line.demanded_by)
        assert line.proof or "release" in line.why or line.topic.startswith("Size of"), line.topic
    kept = {basis.id for basis in chosen.ledger.collect_bases(section)}
    assert {line.estimate.basis for line in section.lines if line.estimate is not None} <= kept


def test_data_grow_and_lie_on_disks_of_the_house() -> None:
    line = line_of(clinic_at_home(), "Data images")
    assert "own disks" in line.choice and "in DE" in line.choice
    assert line.proof == "archwright data list"
    assert line.estimate is not None and line.estimate.value > 84_000 * 2**30


def test_a_backup_names_the_clause_that_asks_for_it_and_that_nothing_shows_it() -> None:
    line = line_of(clinic_at_home(), "Backup of images")
    assert line.demanded_by == ("iso-27001 A.8.13",)
    assert line.proof == "" and "This release shows nothing of it" in line.why


def test_logs_are_kept_as_long_as_a_clause_says() -> None:
    line = line_of(clinic_at_home(), "Logs and audit")
    assert line.demanded_by == ("eu-ai-act 12, 19, 26(6)",) and "183 days" in line.why


def test_checkpoints_of_a_full_tune_take_flash_because_of_their_bandwidth() -> None:
    line = line_of(manufacturer_in_both(), "Checkpoints of house-model")
    assert "own flash" in line.choice and "more than the 1 GB/s that one machine gets from object storage" in line.why


def test_one_machines_streams_suffice_for_a_small_model() -> None:
    line = line_of(startup_in_a_cloud(), "Model files of support-chat")
    assert "object storage in us-east-1" in line.choice and "the streams of 1 machine" in line.why


def test_reading_at_once_takes_the_streams_of_several_machines() -> None:
    needs, fleets, where = startup_in_a_cloud()
    etl = replace(needs.workloads[0], name="etl", kind="data-processing", traffic=Traffic(gib_per_day=2e5))
    line = line_of((replace(needs, workloads=(*needs.workloads, etl)), fleets, where), "Data tickets")
    assert "the streams of 3 machines" in line.why


def test_a_guessed_index_says_so() -> None:
    line = line_of(clinic_at_home(), "Size of the index of letters")
    assert line.estimate is not None and line.estimate.factor > 10
    assert "estimated" in line.why and "memory form" in line.choice


def test_an_index_of_counted_documents_is_no_guess() -> None:
    needs, fleets, where = startup_in_a_cloud()
    counted = tuple(
        replace(one, data=("tickets", "handbook")) if one.kind == "embedding" else one for one in needs.workloads
    )
    topics = [
        line.topic
        for line in build_storage_section(chosen_of((replace(needs, workloads=counted), fleets, where))).lines
    ]
    assert "Vector index of support-chat" in topics and "Size of the index of support-chat" not in topics


def test_retention_names_its_clauses() -> None:
    line = line_of(clinic_at_home(), "Retention")
    assert "images 120 months" in line.choice and "iso-27001 A.8.10" in line.demanded_by


def test_a_cache_tier_is_sized_and_not_bought() -> None:
    line = line_of(clinic_at_home(), "Cache of conversations of letters")
    assert "no further tier" in line.choice and "archwright_ttft_seconds" in line.proof


def test_what_is_there_is_kept() -> None:
    needs, fleets, where = startup_in_a_cloud()
    there = (
        ExistingComponent(kind="lake", product="theirs", url="https://lake"),
        ExistingComponent(kind="registry", product="shelf"),
        ExistingComponent(kind="monitoring", product="watcher"),
    )
    section = build_storage_section(chosen_of((replace(needs, existing=there), fleets, where)))
    kept = {line.topic: line for line in section.lines}
    assert kept["Existing lake"].source == "https://lake"
    assert kept["Existing registry"].choice == "shelf, kept"
    assert "Data tickets" not in kept and "Existing monitoring" not in kept


def test_this_machines_data_stay_on_its_disk() -> None:
    section = build_storage_section(chosen_of(desk_here()))
    assert section.summary.startswith("The data stays")
    assert "archwright_disk_bytes" in line_of(desk_here(), "Data").proof


def test_beside_a_model_that_answers_elsewhere_data_lie_with_the_platforms_host() -> None:
    assert "us-central1" in line_of(startup_by_the_token(), "Data tickets").choice


def test_without_an_option_there_is_no_place() -> None:
    section = build_storage_section(ChosenOption(needs_of("clinic"), CATALOG, PlanProvenance(), None, ()))
    assert section.summary.startswith("No option is feasible")

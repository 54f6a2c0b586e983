"""The storage section: what is kept, where, why there, and who demands it."""

from __future__ import annotations

import pytest

from archwright.contract.decision import SectionLine
from archwright.contract.needs import ExistingComponent, Traffic
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.sections.storage import build_storage_section

from ..cost.test_operating_costs import CASES, CATALOG, Case
from .test_network import BOTH, CLOUD, DESK, HOME, TOKENS, WORKLOADS, chosen_of, of


def line_of(case: Case, topic: str) -> SectionLine:
    (line,) = [line for line in build_storage_section(chosen_of(case)).lines if line.topic == topic]
    return line


# Reading at once takes the streams of several machines.
ETL = replace(WORKLOADS[0], name="etl", kind="data-processing", traffic=Traffic(gib_per_day=2e5))


@pytest.mark.parametrize(
    ("case", "topic", "field", "texts"),
    [
        (HOME, "Data images", "choice", ("own disks", "in DE")),
        (HOME, "Data images", "proof", ("archwright data list",)),
        (HOME, "Backup of images", "demanded_by", ("iso-27001 A.8.13",)),
        (HOME, "Backup of images", "why", ("To do: check the stored size",)),
        (HOME, "Logs and audit", "demanded_by", ("eu-ai-act 12, 19, 26(6)",)),
        (HOME, "Logs and audit", "why", ("183 days",)),
        (BOTH, "Checkpoints of house-model", "choice", ("own flash",)),
        (
            BOTH,
            "Checkpoints of house-model",
            "why",
            ("more than the 1 GB/s that one machine gets from object storage",),
        ),
        (CLOUD, "Model files of support-chat", "choice", ("object storage in us-east-1",)),
        (CLOUD, "Model files of support-chat", "why", ("the streams of 1 machine",)),
        (of(CLOUD, workloads=(*WORKLOADS, ETL)), "Data tickets", "why", ("the streams of 3 machines",)),
        (HOME, "Size of the index of letters", "why", ("estimated",)),
        (HOME, "Size of the index of letters", "choice", ("memory form",)),
        (HOME, "Retention", "choice", ("images 120 months",)),
        (HOME, "Retention", "demanded_by", ("iso-27001 A.8.10",)),
        (HOME, "Cache of conversations of letters", "choice", ("no further tier",)),
        (HOME, "Cache of conversations of letters", "proof", ("archwright_ttft_seconds",)),
        (DESK, "Data", "proof", ("archwright_disk_bytes",)),
        (TOKENS, "Data tickets", "choice", ("us-central1",)),
    ],
)
def test_a_line_says(case: Case, topic: str, field: str, texts: tuple[str, ...]) -> None:
    said = getattr(line_of(case, topic), field)
    assert all(text in said for text in texts), said


@pytest.mark.parametrize("case", [make() for make in CASES])
def test_every_line_says_what_why_and_what_else(case: Case) -> None:
    chosen = chosen_of(case)
    section = build_storage_section(chosen)
    assert section.id == "storage" and section.lines
    for line in section.lines:
        assert line.choice and line.why and line.alternative and line.why_not
        assert all(clause.split()[0] in chosen.needs.regulations for clause in line.demanded_by)
        assert line.proof or "To do" in line.why or line.topic.startswith("Size of"), line.topic
    kept = {basis.id for basis in chosen.ledger.collect_bases(section)}
    assert {line.estimate.basis for line in section.lines if line.estimate is not None} <= kept


def test_data_grow_and_a_guessed_index_is_wide_and_a_backup_has_no_proof() -> None:
    images, index = (line_of(HOME, topic).estimate for topic in ("Data images", "Size of the index of letters"))
    assert images is not None and images.value > 84_000 * 2**30
    assert index is not None and index.factor > 10
    assert line_of(HOME, "Backup of images").proof == ""


def test_an_index_of_counted_documents_is_exact() -> None:
    counted = (replace(w, data=("tickets", "handbook")) if w.kind == "embedding" else w for w in WORKLOADS)
    section = build_storage_section(chosen_of(of(CLOUD, workloads=tuple(counted))))
    topics = {line.topic for line in section.lines}
    assert "Vector index of support-chat" in topics and "Size of the index of support-chat" not in topics


def test_what_is_there_is_kept() -> None:
    there = (
        ExistingComponent(kind="lake", product="theirs", url="https://lake"),
        ExistingComponent(kind="registry", product="shelf"),
        ExistingComponent(kind="monitoring", product="watcher"),
    )
    section = build_storage_section(chosen_of(of(CLOUD, existing=there)))
    kept = {line.topic: line for line in section.lines}
    assert kept["Existing lake"].source == "https://lake"
    assert kept["Existing registry"].choice == "shelf, kept"
    assert "Data tickets" not in kept and "Existing monitoring" not in kept


def test_the_summary_says_where_data_stay() -> None:
    undecided = ChosenOption(HOME[0], CATALOG, PlanProvenance(), None, ())
    assert build_storage_section(undecided).summary.startswith("No option is feasible")
    assert build_storage_section(chosen_of(DESK)).summary.startswith("The data stays")

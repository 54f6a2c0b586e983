"""The card of a version: facts, policy, quality, lineage, limits; markup of names is escaped."""

from __future__ import annotations

from archwright.contract.lineage import DatasetVersion, ExpectationResult, LineageEdge, SourceFile
from archwright.contract.record import replace
from archwright.lake import dataset_card
from archwright.lake.dataset_card import DatasetCard
from archwright.lake.governance.policy import DatasetPolicy, append_policy
from archwright.monitor import lineage

from ..training.counting_trainer import version_of
from .temporary_lake import Lake

FILE = SourceFile(path="<b>\\a|b\n[x](y)`.txt", sha256="ab" * 32, size_bytes=9, rows=1234, quarantined=3)


def card_of(version: DatasetVersion, files: int = 1) -> DatasetCard:
    return DatasetCard(
        version=version,
        policy=DatasetPolicy(dataset="docs", tenant="default", readers=("default",)),
        files=(FILE,) * files,
        models=(),
        runs=(),
        refined=(),
        lineage=(),
        personal_data={},
        limits=(),
        quarantine=None,
        drops=None,
    )


def lake_version() -> DatasetVersion:
    return replace(
        version_of((), 1234, "docs"),
        columns={"record_id": "id", "a|b": "integer"},
        drops={"quarantine: not JSON": 3},
        content_sha256="cd" * 32,
    )


def test_a_card_says_all_of_it() -> None:
    measured = ExpectationResult(check="max", columns=("a|b",), bound=9, measured=1.0)
    text = dataset_card.format_card(card_of(replace(lake_version(), expectations=(measured,))))
    for line in (
        "# Data set docs@v1",
        "| made | 1970-01-01 00:00 UTC, ingested from files |",
        "| rows | 1,234 |",
        "| licence | not stated |",
        "| owner | unknown |",
        "| version before | none |",
        f"| content (SHA-256) | {'cd' * 32} |",
        "| record_id | id | system |",
        "| a\\|b | integer |  |",
        "| a\\|b | max | 9 | 1 |",
        "| quarantine: not JSON | 3 |",
        "## Changed values\n\nnone",
        f"| &lt;b>\\\\a\\|b \\[x](y)\\`.txt | 1,234 | 3 | 9 | {'ab' * 32} |",
    ):
        assert line in text
    assert "## Recipe" not in text
    assert text.endswith("\n")


def test_a_card_of_a_refined_version() -> None:
    recipe, changes = '[{"redact":{"kinds":["ip"]}}]', {"ip": 2}
    made = replace(lake_version(), action="refine", parent="docs@v1", recipe=recipe, drops={}, changes=changes)
    text = dataset_card.format_card(card_of(replace(made, licence="MIT")))
    for line in (
        "refined from docs@v1",
        "| parent | docs@v1 |",
        "## Dropped rows\n\nnone",
        "| ip | 2 |",
        '"redact": {',
        "| licence | MIT |",
    ):
        assert line in text


def test_a_card_of_very_many_files_is_bounded() -> None:
    text = dataset_card.format_card(card_of(lake_version(), files=1000))
    assert text.count("ab" * 32) == dataset_card.MAX_LISTED_FILES
    assert "and 800 more files; `archwright data show docs@v1 --json`" in text


def test_a_card_has_the_present_policy_and_all_that_was_made_of_the_version(lake: Lake) -> None:
    version = lake.ingest_rows([{"text": "mail ann@example.org"}, {"text": "none"}]).version
    lake.refine("[{redact: {}}]")
    made = [("run:r-1", "dataset:docs-clean@v1", "trained-on"), ("model:m@v1", "run:r-1", "produced-by")]
    edges = [LineageEdge(at=0.0, child=c, parent=p, relation=r) for c, p, r in made]  # type: ignore[arg-type]
    lineage.append_edges(lake.store, edges)
    before = dataset_card.build_card(lake.home, lake.store, version)
    assert before.limits == (
        "The owner is not stated.",
        "The purpose is not stated.",
        "The lawful basis is not stated.",
        "The classification is not stated.",
        "The licence is not stated.",
        "No expectation checks the values.",
    )
    append_policy(
        lake.store,
        DatasetPolicy(
            dataset="docs", owner="ann|b", purpose="p", lawful_basis="consent", consent="form 12", licence="MIT"
        ),
    )
    card = dataset_card.build_card(lake.home, lake.store, version)
    assert (card.personal_data, card.refined) == ({"email": 1}, ("docs-clean@v1",))
    text = dataset_card.format_card(card)
    for line in (
        "| owner | ann\\|b |",
        "| lawful basis | consent: the person gave consent to the purpose |",
        "| consent | form 12 |",
        "| licence | MIT |",
        "## Personal data found\n\n| kind | values |\n| --- | --- |\n| email | 1 |",
        "| dataset:docs@v1 | refined | dataset:docs-clean@v1 |",
        "| dataset:docs-clean@v1 | trained-on | run:r-1 |",
        "| run:r-1 | produced-by | model:m@v1 |",
        "- The classification is not stated.",
    ):
        assert line in text, line
    clean = dataset_card.build_card(lake.home, lake.store, lake.refine("[{redact: {}}]").version)
    assert (clean.policy.owner, clean.policy.consent, clean.runs) == ("ann|b", "form 12", ("r-1",))
    assert [edge.parent for edge in clean.lineage] == ["dataset:docs@v1", "dataset:docs-clean@v1", "run:r-1"]

"""Policies: history, inheritance, residency, access per tenant."""

from __future__ import annotations

import pytest

from archwright.errors import ArchwrightError, DataError
from archwright.lake.governance import policy
from archwright.lake.governance.policy import DatasetPolicy

from ..temporary_lake import Lake, code

DROP_SHORT = "[{drop-short: {characters: 1}}]"


def state(lake: Lake, dataset: str, **fields: object) -> None:
    policy.append_policy(lake.store, DatasetPolicy(dataset=dataset, **fields))  # type: ignore[arg-type]


def test_a_data_set_without_a_policy_has_an_unknown_owner_and_the_default_tenant(lake: Lake) -> None:
    found = policy.read_policy(lake.store, "docs")
    assert (found.owner, found.tenant, found.readers, found.residency) == ("", "default", ("default",), ())
    assert policy.is_readable(lake.store, "docs", "default") and not policy.is_readable(lake.store, "docs", "clinic")
    refused = policy.access_error("docs", "clinic")
    assert (refused.code, refused.http_status) == ("AW-DATA-53", 403)


def test_the_newest_policy_counts_and_all_are_there(lake: Lake) -> None:
    state(lake, "docs", owner="ann", by="ann", at=1.0)
    state(lake, "docs", owner="bob", by="root", at=2.0)
    assert policy.read_policy(lake.store, "docs").owner == "bob"
    history = policy.read_policy_history(lake.store, "docs")
    assert [(found.owner, found.by, found.at) for found in history] == [("ann", "ann", 1.0), ("bob", "root", 2.0)]


def test_a_refined_data_set_has_the_strictest_policy_of_its_source(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a"}])
    lake.refine(DROP_SHORT)
    lake.refine(DROP_SHORT, "docs-clean", "docs-final")
    state(
        *(lake, "docs"),
        tenant="clinic",
        owner="ann",
        lawful_basis="consent",
        classification="restricted",
        residency=("DE", "FR"),
        retention_days=30,
        readers=("research", "school"),
    )
    state(
        *(lake, "docs-clean"),
        lawful_basis="not-personal",
        classification="internal",
        residency=("FR", "US"),
        retention_days=90,
        readers=("research", "bank"),
    )
    final = policy.read_policy(lake.store, "docs-final")
    assert (final.tenant, final.owner, final.lawful_basis) == ("clinic", "ann", "not-personal")
    assert (final.classification, final.residency, final.retention_days) == ("restricted", ("FR",), 30)
    assert final.readers == ("clinic", "research")
    assert policy.readable_datasets(lake.store, "school") == ("docs",)
    assert policy.readable_datasets(lake.store, "research") == ("docs", "docs-clean", "docs-final")
    assert policy.readable_datasets(lake.store, "bank") == ()
    state(lake, "docs-clean", tenant="school", released=("docs",), readers=("bank",), classification="public")
    released = policy.read_policy(lake.store, "docs-final")
    assert (released.classification, released.readers, released.residency) == ("public", ("bank", "school"), ())


def test_data_sets_refined_from_each_other_have_a_policy(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a"}])
    lake.refine(DROP_SHORT, "docs", "one")
    lake.refine(DROP_SHORT, "one", "two")
    lake.put_rows("a.jsonl", [{"text": "b"}])
    lake.refine(DROP_SHORT, "two", "one")
    state(lake, "two", classification="confidential")
    assert policy.read_policy(lake.store, "one").classification == "confidential"
    assert policy.read_policy(lake.store, "two").classification == "confidential"


@pytest.mark.parametrize(
    ("residency", "country", "refused"),
    [((), "", False), (("any",), "", False), (("DE",), "DE", False), (("DE",), "US", True), (("DE",), "", True)],
)
def test_a_place_outside_the_residency_is_refused(
    lake: Lake, residency: tuple[str, ...], country: str, refused: bool
) -> None:
    state(lake, "docs", residency=residency)
    for sources in ((), ("docs",)):
        if refused:
            with pytest.raises(DataError) as caught:
                policy.check_location(lake.store, "docs" if not sources else "other", country, sources)
            assert code(caught.value) == "AW-DATA-48"
        else:
            policy.check_location(lake.store, "docs" if not sources else "other", country, sources)


def test_residencies_without_a_common_country_permit_no_place(lake: Lake) -> None:
    state(lake, "docs", residency=("DE",))
    state(lake, "clean", residency=("US",))
    for country in ("DE", "US", "none"):
        with pytest.raises(DataError):
            policy.check_location(lake.store, "clean", country, ("docs",))


@pytest.mark.parametrize(
    "fields",
    [
        {"lawful_basis": "because"},
        {"classification": "secret"},
        {"residency": ("Germany",)},
        {"retention_days": 0},
        {"readers": ("A B",)},
    ],
)
def test_an_invalid_policy_is_refused(lake: Lake, fields: dict[str, object]) -> None:
    with pytest.raises(ArchwrightError) as caught:
        state(lake, "docs", **fields)
    assert caught.value.code in ("AW-DATA-49", "AW-USE-30")
    assert policy.read_policy_history(lake.store, "docs") == []

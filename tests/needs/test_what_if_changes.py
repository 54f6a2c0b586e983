"""A needs file with fields changed: which keys there are, what a value may be, and that every check still holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.errors import NeedsError, UsageError
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.needs.what_if_changes import parse_changes, read_changed_needs

CATALOG: Catalog = load_catalog()


@pytest.fixture
def startup(tmp_path: Path) -> Path:
    path = tmp_path / "needs.yaml"
    path.write_text(read_template("startup"), encoding="utf-8")
    return path


def changed(path: Path, *texts: str) -> tuple[Needs, NeedsSource]:
    return read_changed_needs(path, parse_changes(texts), CATALOG)


def refused(path: Path, *texts: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        changed(path, *texts)
    return caught.value


def test_every_kind_of_value_is_set(startup: Path) -> None:
    needs, _ = changed(
        startup,
        "budget.per_month=5000",
        "organisation.country=DE",
        "placement.clouds=[aws, azure]",
        "workloads[0].slo={ttft_p95_s: 2.5}",
        "workloads.support-chat.quality.mmlu_pro=0.6",
        "workloads.index={name: index, kind: embedding, traffic: {documents: 5, tokens_per_document: 700}}",
    )
    assert (needs.budget.per_month, needs.organisation.country) == (5000, "DE")
    assert needs.placement.clouds == ("aws", "azure")
    assert (needs.workloads[0].slo.ttft_p95_s, needs.workloads[0].slo.availability) == (2.5, None)
    assert needs.workloads[0].quality == {"mmlu_pro": 0.6}
    traffic = needs.workloads[2].traffic
    assert traffic is not None and (traffic.documents, traffic.refresh) == (5, None)
    assert changed(startup, "placement.clouds[1]=nebius")[0].placement.clouds == ("aws", "nebius", "gcp")


def test_an_entry_is_called_by_its_name_or_its_place(startup: Path) -> None:
    key = "traffic.requests_per_second.peak"
    by_name, _ = changed(startup, f"workloads.support-chat.{key}=6")
    by_place, _ = changed(startup, f"workloads[0].{key}=6")
    assert by_name == by_place
    traffic = by_name.workloads[0].traffic
    assert traffic is not None and traffic.requests_per_second is not None and traffic.requests_per_second.peak == 6


def test_several_changes_between_commas_and_commas_inside_a_value() -> None:
    keys = [change.key for change in parse_changes(["a.b=[x, y],c[0].d={e: 1, f: 2}", "g = 3"])]
    assert keys == ["a.b", "c[0].d", "g"]
    assert parse_changes(["a=1,2"])[0].value == "1,2"


def test_a_field_that_is_not_written_yet_and_one_that_is_taken_away(startup: Path) -> None:
    needs, source = changed(startup, "workloads.index.slo.latency_p95_s=9", "budget.per_month=")
    index = next(workload for workload in needs.workloads if workload.name == "index")
    assert index.slo.latency_p95_s == 9
    assert needs.budget.per_month is None and "budget.per_month" not in source.lines
    assert changed(startup, "workloads.index.slo.latency_p95_s=")[0] == changed(startup, "budget.capex=0")[0]


def test_no_change_is_the_same_needs_and_another_digest_with_the_same_seed(startup: Path) -> None:
    plain, source = parse_needs(startup.read_bytes(), str(startup), CATALOG)
    same, other = changed(startup, "budget.per_month=3500")
    assert same == plain
    assert other.digest[:8] == source.digest[:8] and other.digest != source.digest
    assert changed(startup, "budget.per_month=3501")[1].digest != other.digest


def test_an_error_has_the_line_of_what_was_changed(startup: Path) -> None:
    line = next(n for n, text in enumerate(startup.read_text().splitlines(), 1) if text.startswith("budget"))
    with pytest.raises(NeedsError) as caught:
        changed(startup, "budget.per_month=-1")
    assert (caught.value.where.line, caught.value.where.field) == (line, "budget.per_month")
    with pytest.raises(NeedsError) as caught:
        changed(startup, "budget={currency: USD, horizon: 3}")
    assert caught.value.where.field == "budget.horizon" and caught.value.where.line == line


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("budget.permonth", "budget.per_month"),
        ("per_month", "budget.per_month"),
        ("workloads.suport-chat.slo.ttft_p95_s", "workloads.support-chat.slo.ttft_p95_s"),
        ("workloads[7].slo.ttft_p95_s", "workloads.tone.slo.ttft_p95_s"),
        ("budget.per_month.value", "budget.per_month"),
        ("data.tickets.size", "data.tickets.size_gib"),
        ("placement.clouds.first", "placement.clouds.0"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(startup: Path, key: str, nearest: str) -> None:
    error = refused(startup, f"{key}=1")
    assert error.code == "AW-USE-61" and error.where.field == key
    assert nearest in error.nearest


@pytest.mark.parametrize(
    ("changes", "code", "nearest", "hint"),
    [
        (("@@@@=1",), 61, None, "budget.per_month"),
        ((".=1",), 61, None, ""),
        # A scalar holds nothing.
        (("budget=3", "budget.per_month=1"), 61, "budget.per_month", ""),
        (("workloads[1]=3", "workloads[1].traffic.requests_per_second.mean=1"), 61, "", ""),
        (("budget=3", "budget.capital=1"), 61, "budget.capex", ""),
        # A change needs a key, an equals sign and a value in YAML.
        (("budget.per_month",), 60, None, "budget.per_month"),
        (("=3",), 60, None, ""),
        ((" =3",), 60, None, ""),
        (("budget.per_month=[1",), 60, None, ""),
    ],
)
def test_what_cannot_be_changed(
    startup: Path, changes: tuple[str, ...], code: int, nearest: str | None, hint: str
) -> None:
    error = refused(startup, *changes)
    assert error.code == f"AW-USE-{code}" and hint in error.hint
    assert nearest in error.nearest if nearest else nearest == "" or not error.nearest, error.nearest
    assert code == 61 or "what_if" in str(error.where)


def test_what_cannot_be_read_is_reported_as_for_any_needs_file(tmp_path: Path) -> None:
    with pytest.raises(NeedsError) as caught:
        changed(tmp_path / "nowhere.yaml", "budget.per_month=1")
    assert caught.value.code == "AW-NEEDS-01"


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_typed_the_answer_is_needs_or_one_error(startup: Path, key: str, value: str) -> None:
    try:
        changed(startup, f"{key}={value}")
    except (UsageError, NeedsError) as error:
        assert error.code.startswith("AW-") and error.hint

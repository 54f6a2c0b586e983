"""Stored bytes of data sets over time, checkpoints, model files and logs, and their storage tier."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, needs_with

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import (
    SLO,
    DataProfile,
    ExistingComponent,
    Needs,
    RequestRate,
    TokenLength,
    Traffic,
    Workload,
)
from archwright.contract.record import replace
from archwright.sizing.infrastructure import storage
from archwright.sizing.infrastructure.storage import GIB, StoredData

MODEL = CATALOG.model("Qwen3-32B")
SIZES = st.floats(0.0, 1e6)
PACES = st.floats(0.0, 1e4)
TIMES = st.floats(0.0, 120.0)
RETENTIONS = st.one_of(st.none(), st.floats(0.0, 240.0))


def data(size: float = 100.0, growth: float = 0.0, kept: float | None = None, name: str = "docs") -> DataProfile:
    return DataProfile(name=name, size_gib=size, growth_gib_per_month=growth, retention_months=kept)


# --- a data set over time


@pytest.mark.parametrize(
    ("held", "sizes_gib"),
    [
        pytest.param(data(10, 2), {5: 20}, id="grows without retention"),
        pytest.param(
            data(310_000, 26_000, 24), {0: 310_000, 10: 570_000, 40: 26_000 * 24}, id="younger than retention"
        ),
        pytest.param(data(1000, 10, 20), {10: 600, 50: 200}, id="shrinks to what its growth keeps"),
        pytest.param(data(10, 5, 0), {3: 0}, id="kept for no time"),
    ],
)
def test_a_data_set_over_time(held: DataProfile, sizes_gib: dict[int, int]) -> None:
    found = {month: storage.stored_bytes_at(held, month) / GIB for month in sizes_gib}
    assert found == pytest.approx(sizes_gib)


@given(SIZES, PACES, RETENTIONS, TIMES, st.floats(1.0, 3.0), st.sampled_from(["size", "growth", "kept"]))
@settings(max_examples=150)
def test_more_data_or_a_longer_retention_is_never_less(
    size: float, growth: float, kept: float | None, month: float, more: float, what: str
) -> None:
    larger = {
        "size": data(size * more, growth, kept),
        "growth": data(size, growth * more, kept),
        "kept": data(size, growth, None if kept is None else kept * more),
    }[what]
    now = storage.stored_bytes_at(data(size, growth, kept), month)
    assert storage.stored_bytes_at(larger, month) >= now * (1 - 1e-9) - 1e-3
    assert now >= 0


# --- what is kept


def tuned(method: str = "lora") -> Needs:
    """Needs with a chat and a fine-tune of its model."""
    tune = Workload(name="tune", kind="finetune", base="chat", method=method)  # type: ignore[arg-type]
    return needs_with(Workload(name="chat", kind="chat"), tune)


def only(found: Iterable[StoredData]) -> StoredData:
    (one,) = found
    return one


def test_a_lake_keeps_versions_too_and_one_that_exists_is_not_priced() -> None:
    needs = needs_with(data=(data(100),))
    kept = only(storage.list_data_sets(needs, CATALOG))
    assert kept.peak_bytes == pytest.approx(100 * GIB * CATALOG.parameter("lake.versions").value)
    assert (kept.tier, kept.facts) == ("object", ("lake.versions",))
    existing = replace(needs, existing=(ExistingComponent(kind="lake", product="theirs"),))
    assert tuple(storage.list_data_sets(existing, CATALOG)) == ()


def test_a_regulation_that_asks_for_backup_gets_a_copy_apart() -> None:
    needs = needs_with(data=(data(100),), regulations=("iso-27001",))
    _, backup = storage.list_data_sets(needs, CATALOG)
    assert (backup.tier, backup.peak_bytes) == ("archive", 100 * GIB)
    assert "iso-27001 A.8.13" in backup.why


def test_processing_reads_a_days_data_within_its_deadline() -> None:
    work = Workload(name="etl", kind="data-processing", traffic=Traffic(gib_per_day=3600, deadline_h=1), data=("docs",))
    for traffic, bandwidth in ((work.traffic, GIB), (Traffic(gib_per_day=86400), GIB), (Traffic(), 0)):
        assert storage.required_read_bandwidth(replace(work, traffic=traffic)) == bandwidth
    kept = only(storage.list_data_sets(needs_with(work, data=(data(),)), CATALOG))
    assert kept.bandwidth == GIB


def test_a_full_fine_tune_keeps_the_state_of_every_parameter() -> None:
    kept = only(storage.list_checkpoints(tuned("full"), {"chat": MODEL}, CATALOG))
    bytes_each, copies = CATALOG.parameter("checkpoint.bytes").value, CATALOG.parameter("checkpoint.kept").value
    assert kept.peak_bytes == pytest.approx(MODEL.parameters * bytes_each * copies)
    assert kept.bandwidth == pytest.approx(MODEL.parameters * bytes_each / CATALOG.parameter("checkpoint.write").value)
    assert kept.tier == "file", "7 GB/s is more than one machine writes to object storage"


def test_adapters_keep_little_and_on_object_storage() -> None:
    kept = only(storage.list_checkpoints(tuned(), {"chat": MODEL}, CATALOG))
    assert kept.tier == "object"
    copies = CATALOG.parameter("checkpoint.kept").value
    assert kept.peak_bytes < 0.01 * copies * MODEL.parameters * CATALOG.parameter("checkpoint.bytes").value


def test_pretraining_states_its_parameters() -> None:
    run = Workload(name="base", kind="pretrain", parameters=1e9, tokens=2e10)
    kept = only(storage.list_checkpoints(needs_with(run), {}, CATALOG))
    assert kept.peak_bytes == pytest.approx(1e9 * CATALOG.parameter("checkpoint.bytes").value * 3)


def test_a_tune_by_adapters_adds_their_file_and_not_the_models() -> None:
    chat, adapters = storage.list_model_files(tuned(), {"chat": MODEL}, CATALOG)
    assert adapters.peak_bytes < 0.01 * chat.peak_bytes


def test_what_no_model_is_known_for_is_not_guessed() -> None:
    assert tuple(storage.list_checkpoints(tuned(), {}, CATALOG)) == ()
    assert tuple(storage.list_model_files(tuned(), {}, CATALOG)) == ()


def test_model_files_are_kept_in_a_few_versions() -> None:
    image = Workload(name="look", kind="image-classification", traffic=Traffic(image_pixels=1e6, parameters=25e6))
    chat, look = storage.list_model_files(
        needs_with(Workload(name="chat", kind="chat"), image), {"chat": MODEL}, CATALOG
    )
    assert chat.peak_bytes == pytest.approx(2 * MODEL.parameters * CATALOG.parameter("model.versions").value)
    assert look.peak_bytes == pytest.approx(2 * 25e6 * CATALOG.parameter("model.versions").value)


# --- logs, metrics, cache


def test_logs_fill_up_until_the_first_are_deleted() -> None:
    kept = storage.size_logs(needs_with(), (1000.0,) * 24, CATALOG)
    record = CATALOG.parameter("log.bytes").value
    window = CATALOG.parameter("log.days").value * 24 / 730
    assert kept.bytes[0] == pytest.approx(500 * record)
    assert kept.bytes[-1] == pytest.approx(window * 1000 * record)
    assert kept.facts == ("log.bytes", "log.days")


def test_the_longest_floor_of_the_regulations_decides_how_long_logs_are_kept() -> None:
    needs = needs_with(regulations=("eu-ai-act", "hipaa"))
    assert storage.log_retention_days(needs, CATALOG) == (2190.0, ("hipaa 164.316(b)(2)",))
    assert storage.size_logs(needs, (1.0,) * 24, CATALOG).facts == ("log.bytes",)
    assert storage.log_retention_days(needs_with(), CATALOG) == (CATALOG.parameter("log.days").value, ())


def test_metrics_grow_with_machines_and_days() -> None:
    kept = storage.size_metrics((2.0, 4.0), 10.0, CATALOG)
    assert kept.bytes == (20 * CATALOG.parameter("metrics.bytes").value, 40 * CATALOG.parameter("metrics.bytes").value)


def test_clauses_are_found_by_their_words() -> None:
    assert storage.find_clauses(needs_with(regulations=("gdpr",)), CATALOG, "encryption") == ("gdpr 32",)
    assert storage.find_clauses(needs_with(), CATALOG, "encryption") == ()


def test_a_cache_tier_would_hold_the_prompts_of_the_last_minutes(catalog: Catalog) -> None:
    traffic = Traffic(
        requests_per_second=RequestRate(mean=1, peak=2),
        input_tokens=TokenLength(mean=1000, p95=2000),
        output_tokens=TokenLength(mean=10, p95=20),
    )
    chat = Workload(name="chat", kind="chat", traffic=traffic, slo=SLO())
    once = storage.cache_tier_bytes(chat, MODEL)
    doubled = replace(traffic, requests_per_second=RequestRate(mean=1, peak=4))
    assert storage.cache_tier_bytes(replace(chat, traffic=doubled), MODEL) == pytest.approx(2 * once)
    assert storage.cache_tier_bytes(replace(chat, kind="embedding"), MODEL) == 0
    assert storage.cache_tier_bytes(replace(chat, traffic=Traffic()), MODEL) == 0

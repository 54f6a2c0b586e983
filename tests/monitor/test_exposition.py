"""What a Prometheus scrapes: read back with the parser of the client library."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from archwright.contract.metrics import METRICS
from archwright.monitor.exposition import CONTENT_TYPE, Exposition, printable

W = {"workload": "chat", "model": "m", "pool": "main"}


def series(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition.render().decode())
        for sample in family.samples
    }


def key(name: str, labels: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_each_kind_is_exposed_under_its_name() -> None:
    exposition = Exposition()
    exposition.observe("ttft_s", W, 0.2)
    exposition.observe("ttft_s", W, 0.4)
    exposition.add("tokens_per_s", W, 7)
    exposition.add("tokens_per_s", W)
    exposition.set("peak_memory_bytes", {"process": "engine"}, 5e8)
    found = series(exposition)
    assert found[key("archwright_ttft_seconds_count", W)] == 2
    assert found[key("archwright_ttft_seconds_sum", W)] == pytest.approx(0.6)
    assert found[key("archwright_ttft_seconds_bucket", {**W, "le": "+Inf"})] == 2
    assert found[key("archwright_output_tokens_total", W)] == 8
    assert found[key("archwright_memory_bytes", {"process": "engine"})] == 5e8
    assert not any(name.endswith("_created") for name, _ in found)


def test_every_metric_of_the_contract_can_be_recorded_and_has_its_help() -> None:
    exposition = Exposition()
    for metric in METRICS:
        exposition.record(metric.quantity, dict.fromkeys(metric.labels, "x"), 1.0)
    text = exposition.render().decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in text
        assert f"# HELP {metric.name} {metric.help}" in text


def test_a_kind_takes_only_its_own_call() -> None:
    exposition = Exposition()
    with pytest.raises(ValueError, match="no histogram"):
        exposition.observe("tokens_per_s", W, 1)
    with pytest.raises(ValueError, match="no counter"):
        exposition.add("ttft_s", W, 1)
    with pytest.raises(ValueError, match="no gauge"):
        exposition.set("ttft_s", W, 1)
    with pytest.raises(KeyError):
        exposition.record("happiness", W, 1)


def test_missing_labels_are_empty_and_foreign_ones_left_out() -> None:
    exposition = Exposition()
    exposition.add("tokens_per_s", {"workload": "chat", "colour": "red"}, 3)
    expected = {"workload": "chat", "model": "", "pool": ""}
    assert series(exposition)[key("archwright_output_tokens_total", expected)] == 3


def test_invented_label_values_cost_accuracy_and_not_memory() -> None:
    exposition = Exposition(limit=5)
    for number in range(1_000):
        exposition.add("tokens_per_s", {**W, "model": f"m{number}"})
    exposition.add("tokens_per_s", {**W, "model": "m2"})
    found = {labels: value for (name, labels), value in series(exposition).items() if "output_tokens" in name}
    assert len(found) == 6
    other = tuple(sorted(dict.fromkeys(W, "other").items()))
    assert found[other] == 995
    assert found[tuple(sorted({**W, "model": "m2"}.items()))] == 2
    assert sum(found.values()) == 1_001


@pytest.mark.parametrize("text", ['a"b', "a\nb", "\ud800", "a\\b", "\x00", "中"])
def test_no_label_value_breaks_the_scrape(text: str) -> None:
    exposition = Exposition()
    for _ in range(2):
        exposition.add("tokens_per_s", {**W, "model": text})
    ((_, labels),) = [found for found in series(exposition) if "output_tokens" in found[0]]
    assert dict(labels)["model"] == printable(text)


def test_threads_lose_nothing() -> None:
    exposition = Exposition()

    def work() -> None:
        for number in range(500):
            exposition.add("tokens_per_s", {**W, "model": f"m{number % 20}"})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(value for (name, _), value in series(exposition).items() if "output_tokens" in name) == 2_000


def test_two_expositions_do_not_share() -> None:
    one, two = Exposition(), Exposition()
    one.add("tokens_per_s", W)
    assert key("archwright_output_tokens_total", W) not in series(two)


def test_the_content_type_is_the_one_every_prometheus_reads() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"

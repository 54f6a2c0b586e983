"""The exposition, read back with the parser of the Prometheus client library."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from tests.monitor.conftest import file_size_limit, running_threads

from archwright.contract.metrics import METRIC_BY_QUANTITY, METRICS
from archwright.monitor.metrics.exposition import CONTENT_TYPE, Exposition, sanitise_label_value

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
    exposition.record("ttft_s", W, 0.2)
    exposition.record("ttft_s", W, 0.4)
    exposition.counter("tokens_per_s", W).add(7)
    exposition.counter("tokens_per_s", W).add()
    exposition.record("peak_memory_bytes", {"process": "engine"}, 5e8)
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
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8", "the one that every Prometheus reads"
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in text
        assert f"# HELP {metric.name} {metric.help}" in text


def test_a_counter_is_only_given_for_a_counter_and_no_child_for_an_unknown_quantity() -> None:
    exposition = Exposition()
    with pytest.raises(ValueError, match="not a counter"):
        exposition.counter("ttft_s", W)
    with pytest.raises(KeyError):
        exposition.record("happiness", W, 1)


def test_missing_labels_are_empty_and_foreign_ones_left_out() -> None:
    exposition = Exposition()
    exposition.counter("tokens_per_s", {"workload": "chat", "colour": "red"}).add(3)
    expected = {"workload": "chat", "model": "", "pool": ""}
    assert series(exposition)[key("archwright_output_tokens_total", expected)] == 3


def test_invented_label_values_cost_accuracy_and_not_memory() -> None:
    exposition = Exposition(limit=5)
    for number in range(1_000):
        exposition.counter("tokens_per_s", {**W, "model": f"m{number}"}).add()
    exposition.counter("tokens_per_s", {**W, "model": "m2"}).add()
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
        exposition.counter("tokens_per_s", {**W, "model": text}).add()
    ((_, labels),) = [found for found in series(exposition) if "output_tokens" in found[0]]
    assert dict(labels)["model"] == sanitise_label_value(text)


def test_threads_lose_nothing() -> None:
    exposition = Exposition()

    def work() -> None:
        for number in range(500):
            exposition.counter("tokens_per_s", {**W, "model": f"m{number % 20}"}).add()

    with running_threads(work):
        pass
    assert sum(value for (name, _), value in series(exposition).items() if "output_tokens" in name) == 2_000


def test_the_text_is_what_the_client_library_makes_of_the_same() -> None:
    registry = CollectorRegistry()
    bounds = METRIC_BY_QUANTITY["ttft_s"].bounds
    histogram = Histogram("archwright_ttft_seconds", "h", list(W), registry=registry, buckets=bounds)
    exposition = Exposition()
    for value in (0.0, 0.01, 0.0101, 0.2, 69.0, 1e6):
        histogram.labels(**W).observe(value)
        exposition.record("ttft_s", W, value)
    theirs = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert series(exposition) == pytest.approx(theirs)


WORKER = """
import sys
from pathlib import Path
from archwright.monitor.metrics.exposition import Exposition
exposition = Exposition(folder=Path(sys.argv[1]))
W = {"workload": "chat", "model": "m", "pool": "main"}
for _ in range(3):
    exposition.record("ttft_s", W, 0.2)
    exposition.counter("tokens_per_s", {**W, "pool": sys.argv[2]}).add(5)
exposition.record("in_flight", {"pool": "main"}, 2)
print("done", flush=True)
sys.stdin.read()
"""


def worker(folder: Path, pool: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), pool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "done\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.process
def test_the_processes_of_a_gateway_are_summed_and_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    mine = Exposition(folder=tmp_path)
    mine.counter("tokens_per_s", W).add(1)
    mine.record("in_flight", {"pool": "main"}, 1)
    one, two = worker(tmp_path, "main"), worker(tmp_path, "other")

    def page() -> tuple[float, ...]:
        found = series(mine)
        names = ("archwright_ttft_seconds_count", "archwright_output_tokens_total")
        chat = [found[key(name, W)] for name in names]
        other = found[key("archwright_output_tokens_total", {**W, "pool": "other"})]
        return (*chat, other, found[key("archwright_requests_in_flight", {"pool": "main"})])

    assert page() == (6, 16, 15, 5)
    killed(two)
    three = worker(tmp_path, "other")
    assert page() == (9, 16, 30, 5), "it counts on where the killed one stopped; gauges begin anew"
    assert len(list(tmp_path.glob("*.counters"))) == 3
    killed(one)
    killed(three)
    mine.close()
    anew = Exposition(folder=tmp_path)
    assert series(anew) == {}
    assert len(list(tmp_path.glob("*.counters"))) == 1
    anew.close()


def test_what_is_counted_has_its_room_from_the_start(tmp_path: Path) -> None:
    page = Exposition(folder=tmp_path)
    (file,) = (path.stat() for path in tmp_path.glob("*.counters"))
    assert file.st_blocks * 512 >= file.st_size, "a disk that is full later must not be a SIGBUS"
    page.close()


def test_without_room_there_is_no_page_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    with file_size_limit(4096), pytest.raises(OSError, match="large"):
        Exposition(folder=tmp_path)
    assert not list(tmp_path.glob("*.counters"))
    Exposition(folder=tmp_path).close()


def test_a_file_that_was_not_made_whole_is_not_counted_on(tmp_path: Path) -> None:
    first = Exposition(folder=tmp_path)
    living = set(tmp_path.glob("*.counters"))
    Exposition(folder=tmp_path).close()
    (ended,) = set(tmp_path.glob("*.counters")) - living
    os.truncate(ended, 0)
    third = Exposition(folder=tmp_path)
    third.counter("tokens_per_s", W).add(3)
    assert series(first)[key("archwright_output_tokens_total", W)] == 3
    third.close()
    first.close()


def test_half_a_label_on_a_full_disk_spoils_nobodys_page(tmp_path: Path) -> None:
    first, second = Exposition(folder=tmp_path), Exposition(folder=tmp_path)
    second.counter("tokens_per_s", W).add(1)
    labels = next(path for path in tmp_path.glob("*.labels") if path.stat().st_size)
    with file_size_limit(labels.stat().st_size + 7), pytest.raises(OSError, match="space"):
        second.counter("tokens_per_s", {**W, "pool": "late"})
    second.counter("tokens_per_s", {**W, "pool": "late"}).add(2)
    assert series(first)[key("archwright_output_tokens_total", {**W, "pool": "late"})] == 2
    second.close()
    with labels.open("ab") as file:
        file.write(b'["tokens_')  # what kill -9 may leave
    third = Exposition(folder=tmp_path)
    third.counter("tokens_per_s", {**W, "pool": "new"}).add(3)
    found = series(first)
    assert [found[key("archwright_output_tokens_total", {**W, "pool": name})] for name in ("late", "new")] == [2, 3]
    third.close()
    first.close()


def test_an_observation_leaves_nothing_behind() -> None:
    """Observations need no memory; bench/ledger measures their time."""
    histogram = Exposition().bind("ttft_s", W)
    histogram.record(0.3)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20_000):
            histogram.record(0.3)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4_000

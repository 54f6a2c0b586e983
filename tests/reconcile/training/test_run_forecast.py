"""The predictions of a training run: their inputs, the reasons for a missing prediction, and their accuracy. The lake
is real; the machine makes exactly 100 GFLOP/s, except where a run is compared with its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest
from sklearn.datasets import load_digits

from archwright.api import data, runs
from archwright.api import training as api_training
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.lineage import DatasetVersion, TrainingRun
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.engines.model_files import locate_model
from archwright.errors import CatalogError, MissingError
from archwright.home import Home
from archwright.reconcile.training.run_forecast import RunForecast, estimate_step_work, forecast_run, probe_machine_now
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep, build_convolution_step
from archwright.store import Store
from archwright.training import image_classifier, training_runs
from archwright.training.training_spec import Columns, ImageSpec, TrainSpec

from ...command_line import CommandLine, error_of

MODEL = "SmolLM2-135M-Instruct"
LORA = TrainSpec(name="assistant", task="text-lora", dataset="qa", base=MODEL, held_out=0.0)
FLAGS = TrainSpec(name="pump", task="tabular-classifier", dataset="readings", columns=Columns(label="state"))
DIGITS = TrainSpec(
    name="digits", task="image-classifier", dataset="digits", image=ImageSpec(height=8, width=8, scale=16.0)
)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = Store(home.store_url)
    yield opened
    opened.close()


def machine(_home: Home, _file: Path | None) -> MachineFacts:
    return MachineFacts(
        cores_usable=2,
        memory_bytes=24 << 30,
        memory_bandwidth_bytes_per_s=within_factor(31e9, 1.2, "bytes/s"),
        matmul_flops_per_s=within_factor(100e9, 1.1, "FLOP/s"),
        disk_write_bytes_per_s=within_factor(1e9, 1.1, "bytes/s"),
        disk_free_bytes=1 << 36,
        isa="avx512",
        gpus=(),
        probed_at=0.0,
    )


def brought(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> DatasetVersion:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return data.ingest(str(path), name=name)


def questions(count: int, prompt: int = 40, completion: int = 300) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n:08d}" * (prompt // 8), "completion": f"{n:010d}" * (completion // 10)} for n in range(count)
    ]


def sizes(spec: TrainSpec, home: Home, version: DatasetVersion) -> tuple[Estimate, Estimate, Estimate, Any]:
    return tuple(estimate_step_work(spec, home, version, catalog=load_catalog()))  # type: ignore[return-value]


def test_texts_are_looked_at(home: Home, tmp_path: Path) -> None:
    """A prompt of 40 characters with a template of 30 tokens and an answer of 300 characters: 40 + 75 tokens per
    row."""
    version = brought(tmp_path, "qa", questions(100))
    units, largest, learned, kind = sizes(LORA, home, version)
    assert units.value == pytest.approx(11_500 / 22) and units.low < 512 < units.high
    assert (largest.low, largest.value, largest.high) == pytest.approx((512, 512 + 57.5, 512 + 57.5))
    assert learned.value == pytest.approx(75 / 115) and learned.low < learned.value < learned.high
    assert isinstance(kind, LoraStep) and (kind.rank, kind.ffn, kind.data_bytes) == (8, 1536, version.size_bytes)


def test_a_plain_text_is_learned_whole(home: Home, tmp_path: Path) -> None:
    version = brought(tmp_path, "qa", [{"body": f"{n:08d}" * 10} for n in range(400)])
    spec = replace(LORA, columns=Columns(text="body"))
    assert sizes(spec, home, version)[2].value == 1.0


def test_rows_that_lack_a_text_do_not_count(home: Home, tmp_path: Path) -> None:
    rows = [*questions(50), *({"prompt": "x" * 400, "completion": None} for _ in range(50))]
    found = sizes(LORA, home, brought(tmp_path, "qa", rows))
    assert found[2].value == pytest.approx(75 / 115)


def test_a_row_is_cut_to_a_step(home: Home, tmp_path: Path) -> None:
    units, largest, _, _ = sizes(LORA, home, brought(tmp_path, "qa", questions(64, completion=40_000)))
    assert units.value == pytest.approx(512)
    assert largest.high == pytest.approx(512 + 256)


def test_few_rows_make_a_short_step_and_a_wider_band(home: Home, tmp_path: Path) -> None:
    version = brought(tmp_path, "qa", questions(2))
    units, largest, _, _ = sizes(LORA, home, version)
    assert units.value == pytest.approx(230) and units.factor > 1.4
    assert largest.low == pytest.approx(230)
    assert sizes(LORA, home, brought(tmp_path, "more", questions(200)))[0].factor < 1.2


def test_no_text_at_all_is_still_sized(home: Home, tmp_path: Path) -> None:
    version = brought(tmp_path, "qa", [{"prompt": "a", "completion": None}, {"prompt": None, "completion": "b"}])
    units, _, learned, _ = sizes(LORA, home, version)
    assert (units.value, learned.value) == (2.0, 1.0)


def test_only_the_first_thousands_of_texts_are_read(home: Home, tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 40, "completion": f"{n:08d}" * (5 if n < 4096 else 50)} for n in range(5000)]
    assert sizes(LORA, home, brought(tmp_path, "qa", rows))[2].value == pytest.approx(10 / 50)


@pytest.mark.parametrize(("states", "trees"), [(2, 1), (3, 3)])
def test_classes_and_features_are_counted(home: Home, tmp_path: Path, states: int, trees: int) -> None:
    rows = [{"a": n, "b": n / 3, "on": n % 2 == 0, "note": f"n{n}", "state": f"s{n % states}"} for n in range(50)]
    version = brought(tmp_path, "readings", rows)
    units, largest, learned, kind = sizes(FLAGS, home, version)
    assert units == largest and (units.value, learned.value) == (45.0, 1.0)
    assert kind == BoostedTreesStep(features=3, trees_per_round=trees, data_rows=45)
    named = replace(FLAGS, columns=Columns(label="state", features=("a",)))
    assert sizes(named, home, version)[3] == replace(kind, features=1)


def test_pictures_come_in_even_steps(home: Home, tmp_path: Path) -> None:
    version = brought(tmp_path, "digits", [{"label": n} for n in range(100)])
    units, largest, _, kind = sizes(DIGITS, home, version)
    assert (units.value, largest.value) == (45.0, 64.0)
    assert isinstance(kind, NetworkStep) and kind.data_rows == 90


def test_the_network_is_the_one_that_is_trained() -> None:
    for shape, labels in (((8, 8, 1), 10), ((1, 9, 3), 4)):
        net = image_classifier.build_network(ImageSpec(height=shape[0], width=shape[1], channels=shape[2]), labels, 1)
        counted = build_convolution_step(shape, image_classifier.CHANNELS, labels, 10)
        assert counted.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_the_spec_and_the_machine_become_predictions(home: Home, store: Store, tmp_path: Path) -> None:
    brought(tmp_path, "qa", questions(400))
    asked: list[Path | None] = []

    def noted(at: Home, file: Path | None) -> MachineFacts:
        asked.append(file)
        return machine(at, file)

    found = forecast_run(LORA, home, store, probe=noted)
    assert [p.metric for p in found.predictions] == ["train_s", "train_tokens_per_s", "train_memory_bytes"]
    assert {p.estimate.basis for p in found.predictions} == {basis.id for basis in found.bases}
    assert asked == [home.model(load_catalog().artefacts[MODEL].sha256)] and found.reason == ""
    twice = forecast_run(replace(LORA, steps=80, threads=2), home, store, probe=machine)
    assert twice.predictions[0].estimate.value < 2 * found.predictions[0].estimate.value


def failing(error: Exception) -> Any:
    def probe(_home: Home, _file: Path | None) -> MachineFacts:
        raise error

    return probe


def test_what_is_not_predicted_says_why(home: Home, store: Store, tmp_path: Path) -> None:
    brought(tmp_path, "qa", questions(10))
    experts = next(model.id for model in load_catalog().models.values() if model.experts)
    cases = {
        "several workers": (replace(LORA, workers=2), machine),
        "no architecture of nobody": (replace(LORA, base="nobody"), machine),
        "has experts": (replace(LORA, base=experts), machine),
        "too busy": (LORA, failing(CatalogError("AW-CAT-06", "too busy"))),
        "no numpy": (LORA, failing(MissingError("AW-GET-01", "no numpy"))),
    }
    for reason, (spec, probe) in cases.items():
        found = forecast_run(spec, home, store, probe=probe)
        assert reason in found.reason and found == RunForecast(reason=found.reason)


def test_an_unknown_data_set_is_refused(home: Home, store: Store) -> None:
    assert "qa" in error_of("AW-DATA-10", forecast_run, LORA, home, store, probe=machine).message


@pytest.mark.process
def test_this_machine_is_probed(home: Home) -> None:
    found = probe_machine_now(home, None)
    assert found.matmul_flops_per_s.value > 1e9 and home.machine_facts.is_file()


def digit_rows() -> list[dict[str, Any]]:
    pixels, labels = load_digits(return_X_y=True)
    return [
        {**{f"p{place:02d}": int(value) for place, value in enumerate(row)}, "label": int(label)}
        for row, label in zip(pixels, labels, strict=True)
    ]


@pytest.mark.process
def test_a_run_records_its_predictions_and_their_basis(store: Store, tmp_path: Path, cli: CommandLine) -> None:
    brought(tmp_path, "readings", [{"a": n % 7, "b": n % 11, "state": n % 2} for n in range(2000)])
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: pump\ntask: tabular-classifier\ndataset: readings\nsteps: 3\ncolumns: {label: state}\n")
    ended = api_training.train(str(spec)).result()
    assert len(ended.predictions) == 3 and ended.not_predicted == ""
    assert {p.estimate.basis for p in ended.predictions} == {basis.id for basis in ended.bases}
    by_id = {promise.id: promise for promise in ended.predictions}
    for deviation in ended.deviations:
        assert deviation.predicted == by_id[deviation.prediction_id].estimate
        assert deviation.measured is not None
    names = {f"pump.training.{name}" for name in ("time", "speed", "memory")}
    assert {basis.id for basis in runs.show("pump").bases} == names
    told = " ".join(cli.text("runs show pump").split())
    assert "facts behind them" in told and "bench/training/measure.py" in told
    assert told.count(load_catalog().training_efficiency("tabular-classifier", "any").source.split(":")[0]) == 1


def test_a_run_without_a_prediction_shows_the_reason(store: Store, cli: CommandLine) -> None:
    run = TrainingRun(
        id="r-1",
        at=0.0,
        name="assistant",
        task="text-lora",
        status="finished",
        created_at=0.0,
        dataset_version="qa@v1",
        not_predicted="has experts [bold]and[/]",
    )
    training_runs.append_run(store, run)
    assert "no prediction: has experts [bold]and[/]" in cli.text("runs show r-1")


def held(run: TrainingRun, metric: str) -> bool:
    return next(d for d in run.deviations if d.metric == metric).verdict == "within"


def keep_promises(spec: str, *metrics: str) -> None:
    """Memory must hold in every run; `metrics`, predicted for nine of ten runs on an idle machine, in one of two."""
    Path("spec.yaml").write_text(spec)
    ended = [api_training.train("spec.yaml").result()]
    if not held(ended[0], "train_tokens_per_s"):
        ended.append(api_training.train("spec.yaml").result())
    assert all(held(run, "train_memory_bytes") for run in ended), ended
    assert any(all(held(run, metric) for metric in metrics) for run in ended), ended


@pytest.mark.nightly
def test_a_real_run_is_inside_its_predictions(home: Home, model_home: Home, tmp_path: Path) -> None:
    """Eight steps of the real recipe."""
    artefact = load_catalog().artefacts[MODEL]
    home.model(artefact.sha256).symlink_to(locate_model(artefact, model_home))
    parts = [(name, part) for name, text in sorted(topics.topics.items()) for part in text.split("\n\n")]
    rows = [{"prompt": f"What about {name}?", "completion": part} for name, part in parts if 60 < len(part) < 1200]
    brought(tmp_path, "qa", rows)
    spec = f"name: assistant\ntask: text-lora\ndataset: qa\nbase: {MODEL}\nsteps: 8\n"
    keep_promises(spec, "train_tokens_per_s", "train_s")


@pytest.mark.nightly
def test_a_real_classifier_is_inside_its_predictions(home: Home, tmp_path: Path) -> None:
    brought(tmp_path, "digits", digit_rows())
    image = "image: {height: 8, width: 8, scale: 16}"
    keep_promises(f"name: digits\ntask: image-classifier\ndataset: digits\nsteps: 300\n{image}\n", "train_tokens_per_s")

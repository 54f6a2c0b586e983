"""`predict serving --on this-machine` before any download, and what a calibration run changes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from archwright import api
from archwright.access import audit_log
from archwright.api.context import open_home
from archwright.catalog.load import load_catalog
from archwright.catalog.probe import machine_probe
from archwright.contract.record import replace
from archwright.errors import MissingError, UsageError
from archwright.home import Home, write_json
from archwright.reconcile.calibration import engine_measurement

from ..command_line import CommandLine, error_of
from ..sizing.conftest import probed_machine

SMALL = "SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def known_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Report the engine of the shipped rows, whatever is installed; the real model is measured with the real report."""
    if "model_home" not in request.fixturenames:
        monkeypatch.setattr(machine_probe, "read_engine_report", lambda: probed_machine().engine)


@pytest.fixture
def probed(home: Home) -> Home:
    write(home, probed_at=time.time())
    return home


def write(home: Home, **changes: Any) -> None:
    home.folder("measured")
    write_json(home.machine_facts, replace(probed_machine(), **changes))


def predict(model: str, load: str = "") -> Any:
    return api.predict_serving(model, on="this-machine", load=load)


def test_a_model_of_the_hub_is_predicted_with_sources_and_weak_points(probed: Home, cli: CommandLine) -> None:
    found = cli.json("predict serving Qwen3-4B --on this-machine")
    assert found["model"] == "Qwen3-4B Q4_K_M" and "fits: " in found["layout"]
    numbers = found["estimates"]
    assert set(numbers) == {
        "ttft_p50_s",
        "tpot_p50_s",
        "tokens_per_s",
        "memory_bytes",
        "cold_start_s",
        "download_bytes",
    }
    for name, estimate in numbers.items():
        assert estimate["low"] < estimate["value"] < estimate["high"], name
        assert found["definitions"][name]
    assert any("computed" in line for line in found["weak"])
    assert any("sweep.py" in line for line in found["sources"])


def test_a_shape_that_was_measured_is_inside_the_band(probed: Home) -> None:
    """Qwen3-4B's shape with a smaller vocabulary, Q4_K_M, one thread of such a machine (bench/engine/sweep.csv)."""
    found = predict("Qwen3-4B", "1x64+16").estimates
    assert found["tpot_p50_s"].contains(0.117) and found["ttft_p50_s"].contains(4.54)
    assert predict("Qwen3-8B", "1x64+16").estimates["tpot_p50_s"].contains(0.260)


def test_a_smaller_format_is_smaller_and_a_load_counts(probed: Home) -> None:
    wide, narrow = predict("Qwen3-1.7B:Q8_0"), predict("Qwen3-1.7B:q4_k_m")
    for name in ("memory_bytes", "download_bytes", "tpot_p50_s"):
        assert narrow.estimates[name].value < wide.estimates[name].value
    four, one = predict(SMALL, "4x100+20"), predict(SMALL, "1x100+20")
    assert four.estimates["tokens_per_s"].value > one.estimates["tokens_per_s"].value
    assert four.estimates["ttft_p50_s"].value > one.estimates["ttft_p50_s"].value
    assert predict(SMALL, "max x 100 + 20").layout == four.layout
    assert "tokens_per_s" not in predict(SMALL, "0.05/s x 100 + 20").estimates


def test_what_does_not_fit_is_refused_with_both_figures(probed: Home, cli: CommandLine) -> None:
    found = cli.json_error("predict serving Llama-3.3-70B-Instruct --on this-machine", 2)
    assert found["code"] == "AW-USE-21"
    assert "needs 40" in found["message"] and "19.2 GiB" in found["message"]
    named = found["hint"].partition(":")[2].split(",")[0]
    assert predict(f"Llama-3.3-70B-Instruct:{named}", "1x16+16").layout
    assert "smaller model" in cli.json_error("predict serving gpt-oss-120b --on this-machine", 2)["hint"]
    with pytest.raises(UsageError):
        predict("Llama-3.3-70B-Instruct", "0.1/s x 16 + 16")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"load": "1x200000+10"}, "AW-USE-21", "context"),
        ({"layout": "TP2"}, "AW-USE-23", "embedded engine only"),
        ({"load": "0x8+8"}, "AW-USE-20", "not a load"),
        ({"load": "0/s x 8+8"}, "AW-USE-20", "not a rate"),
    ],
)
def test_a_question_without_an_answer(probed: Home, options: dict[str, str], code: str, said: str) -> None:
    error = error_of(code, api.predict_serving, "Qwen3-4B", on="this-machine", **options)
    assert said in error.message


def test_only_an_old_or_missing_probe_is_repeated(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = list[object]()

    def probe(*_: object, **__: object) -> object:
        probes.append(None)
        write(home, probed_at=time.time())
        return load_catalog(home).machine

    monkeypatch.setattr(machine_probe, "probe_machine", probe)
    for _ in range(2):
        predict(SMALL, "1x8+2")
    assert len(probes) == 1
    write(home, probed_at=time.time() - machine_probe.PROBE_LASTS_S - 1)
    predict(SMALL, "1x8+2")
    assert len(probes) == 2


def test_a_model_that_is_not_here_cannot_be_calibrated(probed: Home) -> None:
    for name in (SMALL, "Qwen3-4B"):
        with pytest.raises(MissingError) as caught:
            api.models.calibrate(name)
        assert caught.value.code == "AW-GET-02"
    assert not probed.engine_measurements.exists()


@pytest.mark.nightly
@pytest.mark.model
def test_a_calibration_of_the_real_model_is_kept(model_home: Home, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load_catalog().artefacts[SMALL].sha256
    home.model(digest).symlink_to(model_home.model(digest).resolve())
    monkeypatch.setattr(engine_measurement, "MOST_ROUNDS", 1)
    report = api.models.calibrate(SMALL)
    assert [figure.name for figure in report.figures][-1] == "startup_s"
    for figure in report.figures:
        assert figure.calibrated.contains(figure.measured), figure
    assert "xllamacpp" in report.run and "threads" in report.run
    after = predict(SMALL, "1x64+8")
    assert after.stratum == "measured here: llamacpp Q4_1"
    assert any("its file" in line for line in after.sources)
    with open_home() as (_settings, _home, store):
        assert ("models.calibrate", SMALL) in [(one.action, one.resource) for one in audit_log.read_entries(store)]

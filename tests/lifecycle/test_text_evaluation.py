"""The gate against the real engine, the real reference and an adapter that was really trained, on a tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from archwright.contract.lineage import Gate, ModelVersion, Score
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lifecycle import adapter_export, model_registry, text_evaluation
from archwright.lifecycle.evaluation_engine import LogProbabilityQuery
from archwright.lifecycle.production_gate import NOT_WORSE_GATE
from archwright.lifecycle.text_evaluation import HeldOutItem
from archwright.training import training_runs
from archwright.training.sequence_packing import EncodedSample

from ..tools.checks import refuses
from .conftest import RUN, Pupil

Change = Callable[[str, Any], Any]


pytestmark = pytest.mark.nightly


def examined(
    pupil: Pupil, model: ModelVersion, production: ModelVersion | None = None
) -> tuple[dict[str, Score], dict[str, Gate]]:
    told: list[str] = []
    scores, gates = text_evaluation.evaluate_text_model(
        pupil.store, pupil.home, model, production=production, tell=told.append
    )
    assert len(told) == 3 + (production is not None)
    return {score.metric: score for score in scores}, {gate.name: gate for gate in gates}


def reweighted(pupil: Pupil, change: Change) -> None:
    """Alter the adapter that the run left."""
    path = pupil.result / adapter_export.WEIGHTS_FILE
    save_file({name: change(name, value).contiguous() for name, value in load_file(path).items()}, path)


def test_a_trained_adapter_is_better_than_its_base_and_served_as_trained(pupil: Pupil) -> None:
    scores, gates = examined(pupil, pupil.register())
    assert gates["quality"].passed and gates["export"].passed
    nll, change = scores["nll_per_token"], scores["nll_per_token_change"]
    assert nll.baseline is not None and nll.low < nll.value < nll.high < nll.baseline
    assert change.high < 0.0 and change.value == pytest.approx(nll.value - nll.baseline)
    assert nll.items >= 20 and nll.baseline_name == "tiny-llama"
    assert scores["perplexity"].value == pytest.approx(np.exp(nll.value))
    export = gates["export"]
    assert export.value is not None and export.limit is not None and export.control is not None
    assert export.value < export.limit < 0.1 < export.control
    assert not list(pupil.home.folder("run").iterdir()) and not list(pupil.home.folder("logs").iterdir())


def exported_wrongly(pupil: Pupil, change: Callable[[Path], None]) -> Gate:
    """The gate's verdict when the file that is served is not what the run left."""
    made = pupil.register()
    path = pupil.home.folder("models") / "wrong"
    change(path)
    sha256, size_bytes = model_registry.store_file(pupil.home, path, "gguf")
    return examined(pupil, replace(made, sha256=sha256, size_bytes=size_bytes))[1]["export"]


def test_an_export_without_the_reordering_of_q_and_k_fails(pupil: Pupil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_export, "interleave_rotary_rows", lambda rows, heads: rows)
    found = exported_wrongly(
        pupil, lambda path: adapter_export.export_adapter(pupil.home.model(pupil.run.base_sha256), pupil.result, path)
    )
    assert not found.passed and "the served model differs from the trained model" in found.detail


def test_an_export_with_b_zeroed_fails(pupil: Pupil) -> None:
    whole = (pupil.result / adapter_export.WEIGHTS_FILE).read_bytes()

    def export(path: Path) -> None:
        reweighted(pupil, lambda name, value: value * 0.0 if "lora_B" in name else value)
        adapter_export.export_adapter(pupil.home.model(pupil.run.base_sha256), pupil.result, path)
        (pupil.result / adapter_export.WEIGHTS_FILE).write_bytes(whole)

    found = exported_wrongly(pupil, export)
    assert not found.passed and found.value == pytest.approx(found.control)


def test_an_adapter_that_does_almost_nothing_fails_on_its_control(pupil: Pupil) -> None:
    """The served model matches, but the base without the adapter would match as well."""
    reweighted(pupil, lambda name, value: value * 1e-3 if "lora_B" in name else value)
    _scores, gates = examined(pupil, pupil.register())
    export = gates["export"]
    assert export.value is not None and export.limit is not None and export.value < export.limit
    assert not export.passed and "too little to tell if it is applied" in export.detail


def test_a_merge_to_four_bit_would_not_be_served_as_trained(pupil: Pupil) -> None:
    """Why adapters are not merged: the same comparison, with a merged and requantised model in the adapter's place."""
    pupil.register()
    base = pupil.home.model(pupil.run.base_sha256)
    merged = pupil.home.folder("models") / "merged"
    merge(base, pupil.result, merged)
    sha256, _ = model_registry.store_file(pupil.home, merged, "gguf")
    engine = text_evaluation._query_engine

    def with_merged(home: Home, model: ModelVersion, query: LogProbabilityQuery, adapter_sha256: str | None) -> Any:
        if adapter_sha256 is None:
            return engine(home, model, query, None)
        return engine(home, replace(model, base_sha256=sha256), query, None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_evaluation, "_query_engine", with_merged)
        found = examined(pupil, model_registry.find_model(pupil.store, "assistant"))[1]["export"]
    assert not found.passed and "the served model differs from the trained model" in found.detail


def merge(base: Path, folder: Path, target: Path) -> None:
    """The base with the adapter added in and every matrix rounded to 4 bit."""
    reader = gguf.GGUFReader(str(base))
    pairs = adapter_export._pair_matrices(adapter_export.read_weights(folder), folder)
    for layer, (name, heads) in product((0, 1), (("attn_q", 4), ("attn_k", 2))):
        a, b = pairs[f"blk.{layer}.{name}.weight"]
        pairs[f"blk.{layer}.{name}.weight"] = (a, adapter_export.interleave_rotary_rows(b, heads))
    scale, kind = adapter_export.read_config(folder).scale, gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(str(target), "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], of)
    for tensor in reader.tensors:
        if tensor.name not in pairs:
            writer.add_tensor(tensor.name, np.asarray(tensor.data))
            continue
        a, b = pairs[tensor.name]
        whole = np.asarray(tensor.data, np.float32) + np.float32(scale) * (b @ a)
        writer.add_tensor(tensor.name, gguf.quants.quantize(whole.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_adapter_that_learned_nothing_is_not_called_better(pupil: Pupil) -> None:
    """Turned around, the update makes the model worse."""
    reweighted(pupil, lambda name, value: -value if "lora_B" in name else value)
    scores, gates = examined(pupil, pupil.register())
    assert not gates["quality"].passed and "not shown to be better" in gates["quality"].detail
    assert scores["nll_per_token_change"].value > 0
    assert gates["export"].passed  # it is served as it is, which is bad


def test_an_adapter_the_engine_refuses_is_answered_with_its_last_words(pupil: Pupil) -> None:
    made = pupil.register()
    broken = pupil.home.folder("models") / "broken"
    broken.write_bytes(b"GGUF and then nothing")
    sha256, _ = model_registry.store_file(pupil.home, broken, "gguf")
    with refuses("AW-MOD-30") as refused:
        examined(pupil, replace(made, sha256=sha256))
    assert "not a complete GGUF model file" in refused.value.message
    log = Path(str(refused.value.where.file))
    assert log.is_file() and "AW-ENG-05" in log.read_text()
    assert not list(pupil.home.folder("run").iterdir())


def held_out(pupil: Pupil, share: float) -> None:
    spec = replace(training_runs.load_spec(pupil.home, RUN), held_out=share)
    training_runs.create_run(pupil.home, training_runs.load_job(pupil.home, RUN), spec)


def test_without_or_with_few_held_out_rows_no_gate_passes(pupil: Pupil) -> None:
    held_out(pupil, 0.02)
    _scores, gates = examined(pupil, pupil.register())
    assert not gates["quality"].passed and "that are needed: not shown" in gates["quality"].detail
    assert not gates["export"].passed and "could be compared" in gates["export"].detail
    held_out(pupil, 0.0)
    with refuses("AW-MOD-31") as refused:
        examined(pupil, pupil.register())
    assert "held_out: 0.1" in refused.value.hint


def copied_run(pupil: Pupil, run: str) -> None:
    """The run and its adapter once more, as the run of a version in production."""
    shutil.copytree(pupil.home.run(RUN), pupil.home.run(run), dirs_exist_ok=True)


def test_the_version_in_production_is_compared_over_the_same_items(pupil: Pupil) -> None:
    copied_run(pupil, "r-0000bbbb")
    made = pupil.register()
    production = replace(made, id="assistant@v0", run="r-0000bbbb")
    scores, gates = examined(pupil, made, production)
    gain = scores["nll_per_token_gain"]
    assert gates[NOT_WORSE_GATE].passed and gates[NOT_WORSE_GATE].detail.startswith("not worse than assistant@v0")
    assert (gain.value, gain.items, gain.baseline_name) == (0.0, scores["nll_per_token"].items, "assistant@v0")

    # Turned around, the update of the new version makes it worse than its base and than production.
    reweighted(pupil, lambda name, value: -value if "lora_B" in name else value)
    scores, gates = examined(pupil, pupil.register(), production)
    assert gates[NOT_WORSE_GATE].verdict == "failed" and scores["nll_per_token_gain"].high < 0.0

    # With the roles exchanged the same figures count for the new version.
    worse = pupil.home.run(RUN) / "result"
    shutil.rmtree(pupil.home.run("r-0000bbbb") / "result")
    shutil.copytree(worse, pupil.home.run("r-0000bbbb") / "result")
    reweighted(pupil, lambda name, value: -value if "lora_B" in name else value)
    scores, gates = examined(pupil, pupil.register(), production)
    assert gates[NOT_WORSE_GATE].passed and gates[NOT_WORSE_GATE].detail.startswith("better than assistant@v0")


def test_only_items_that_production_held_out_too_are_compared(pupil: Pupil) -> None:
    copied_run(pupil, "r-0000bbbb")
    made = pupil.register()
    production = replace(made, id="assistant@v0", run="r-0000bbbb")
    held_out(pupil, 0.5)
    scores, gates = examined(pupil, made, production)
    assert scores["nll_per_token_gain"].items < scores["nll_per_token"].items
    assert gates[NOT_WORSE_GATE].passed


def test_a_production_that_cannot_be_compared_is_not_shown(pupil: Pupil) -> None:
    made = pupil.register()
    gone = examined(pupil, made, replace(made, id="assistant@v0", run="r-0000cccc"))[1][NOT_WORSE_GATE]
    assert gone.verdict == "not shown" and "cannot be compared with assistant@v0" in gone.detail
    other = replace(made, id="assistant@v0", base="other", base_sha256="b" * 64)
    assert "its base is other" in examined(pupil, made, other)[1][NOT_WORSE_GATE].detail


def test_a_run_whose_folder_is_gone_cannot_be_examined(pupil: Pupil) -> None:
    made = pupil.register()
    shutil.rmtree(pupil.home.run(RUN))
    with refuses("AW-TRN-22"):
        examined(pupil, made)


def test_windows_lie_around_the_first_learned_token_and_items_are_bounded_by_their_tokens() -> None:
    long = EncodedSample(list(range(500)), [place >= 200 for place in range(500)])
    window = text_evaluation._cut_window(long)
    around = range(200 - text_evaluation.TOKENS_BEFORE, 200 + text_evaluation.TOKENS_AFTER)
    assert window is not None and window.ids == list(around)
    assert [window.ids[place] for place in window.places] == [200, 221, 242, 263]
    whole = text_evaluation._cut_window(EncodedSample(list(range(9)), [True] * 9))
    assert whole is not None and whole.ids == list(range(9)) and whole.places == [1, 3, 5, 8]
    assert text_evaluation._cut_window(EncodedSample(list(range(9)), [place >= 6 for place in range(9)])) is None
    # Items are bounded by their tokens.
    item = HeldOutItem("a", EncodedSample(list(range(1500)), [True] * 1500))
    nothing = HeldOutItem("b", EncodedSample([1], [False]))
    large = HeldOutItem("c", EncodedSample(list(range(5000)), [True] * 5000))
    assert text_evaluation._limit_items([nothing, item, item, item]) == [item, item]
    assert text_evaluation._limit_items([large]) == [large]

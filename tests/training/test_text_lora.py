from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch

from archwright.contract.record import replace
from archwright.home import Home
from archwright.training import base_model, text_lora
from archwright.training.sequence_packing import compute_losses
from archwright.training.text_lora import LoraTrainer, compute_learning_rate, encode_row
from archwright.training.trainer import SingleWorker, TrainerSetup, WorkerGroup
from archwright.training.training_data import DataSplit, TrainingData
from archwright.training.training_spec import Columns, TrainSpec

from ..tools.checks import WAIT_S, refuses, run_together
from .classifier_rows import Pair
from .counting_trainer import setup as counted
from .tiny_model import LORA, Tiny

SPEC = replace(LORA, steps=20, tokens_per_step=64)
ROWS = [{"prompt": f"the {n}?", "completion": f"{n * n} then"} for n in range(12)]


class Loaded(NamedTuple):
    model: Callable[[str], Any]
    tokenizer: Any


@pytest.fixture(scope="module")
def loaded(tiny: Tiny) -> Loaded:
    tokenizer = base_model.load_base(tiny.twin, "float32")[1]
    return Loaded(lambda dtype: base_model.load_base(tiny.twin, dtype)[0], tokenizer)


def setup(spec: TrainSpec = SPEC, rows: list[dict[str, str]] = ROWS, group: WorkerGroup | None = None) -> TrainerSetup:
    ids = [f"{n:064x}" for n in range(len(rows))]
    part = DataSplit(ids, pa.Table.from_pylist(rows))
    data = TrainingData(part, DataSplit([], None), counted().data.version, 0)
    return TrainerSetup(spec, data, Home("nowhere"), group or SingleWorker(), 1, "0" * 64)


def lora(loaded: Loaded, given: TrainerSetup | None = None, dtype: str = "bfloat16") -> LoraTrainer:
    return LoraTrainer(loaded.model(dtype), loaded.tokenizer, given or setup())


def test_only_the_completion_and_its_end_are_learned_from_and_plain_text_all_along(loaded: Loaded) -> None:
    found = encode_row(loaded.tokenizer, ROWS[3], SPEC)
    read = loaded.tokenizer.decode
    learned = [token for token, yes in zip(found.ids, found.supervised, strict=True) if yes]
    assert read(learned) == "9 then<|end|>"
    assert read(found.ids) == "user: the 3?\nassistant: 9 then<|end|>"
    assert len(found.ids) == len(found.supervised)
    plain = encode_row(loaded.tokenizer, {"prompt": "the end"}, replace(SPEC, columns=Columns(text="prompt")))
    assert read(plain.ids) == "the end<|end|>"
    assert plain.supervised == [False] + [True] * (len(plain.ids) - 1)


@pytest.mark.parametrize(("prompt", "completion"), [(500, 10), (10, 500), (500, 500), (40, 40)])
def test_what_is_too_long_is_cut_and_something_is_left_to_learn(loaded: Loaded, prompt: int, completion: int) -> None:
    found = encode_row(loaded.tokenizer, {"prompt": "p" * prompt, "completion": "c" * completion}, SPEC)
    assert len(found.ids) == SPEC.tokens_per_step
    read = loaded.tokenizer.decode(found.ids)
    assert "assistant: c" in read
    assert sum(found.supervised) >= min(completion, SPEC.tokens_per_step // 2)
    assert read.endswith("<|end|>") == (completion < SPEC.tokens_per_step // 2)


def test_a_model_without_a_template_reads_the_prompt_as_it_is(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.tokenizer, "chat_template", None)
    assert text_lora.format_prompt(loaded.tokenizer, "the") == "the"
    assert sum(encode_row(loaded.tokenizer, {"prompt": "", "completion": ""}, SPEC).supervised) == 1  # the end


def test_the_rate_rises_falls_and_never_ends_at_nothing() -> None:
    spec = replace(SPEC, steps=100, learning_rate=1.0)
    rates = [compute_learning_rate(spec, done) for done in range(100)]
    assert rates[0] == pytest.approx(0.2, rel=0.01)
    assert max(rates) == rates[4] == pytest.approx(1.0, rel=0.01)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(text_lora.RATE_FLOOR, rel=0.01)
    assert compute_learning_rate(replace(spec, steps=1), 0) == 1.0
    assert compute_learning_rate(replace(spec, learning_rate=None, steps=1), 0) == text_lora.LEARNING_RATE


def all_rows(trainer: LoraTrainer) -> list[int]:
    return list(range(len(trainer.lengths())))


def test_it_learns_and_nothing_but_the_adapters_moves(loaded: Loaded) -> None:
    trainer = lora(loaded)
    before = {n: p.clone() for n, p in trainer._model.named_parameters() if not p.requires_grad}
    first = trainer.step(all_rows(trainer))
    for _ in range(18):
        last = trainer.step(all_rows(trainer))
    assert last.loss < 0.75 * first.loss
    assert first.units == sum(trainer.lengths())
    assert all(torch.equal(p, before[n]) for n, p in trainer._model.named_parameters() if not p.requires_grad)
    trained = [n for n, p in trainer._model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert {p.dtype for p in trainer._parameters} == {torch.float32}


def test_the_first_loss_is_the_bases_own(loaded: Loaded) -> None:
    """Fresh adapters change nothing."""
    encoded = [encode_row(loaded.tokenizer, row, SPEC) for row in ROWS]
    with torch.no_grad():
        plain = float(compute_losses(loaded.model("float32"), encoded).values.mean())
    trainer = lora(loaded, dtype="float32")
    assert trainer.step(all_rows(trainer)).loss == pytest.approx(plain, rel=1e-5)


def test_going_on_from_its_state_gives_the_same_bytes(loaded: Loaded) -> None:
    unbroken, before = lora(loaded), lora(loaded)
    after = lora(loaded, setup(replace(SPEC, seed=99)))  # another beginning, so that nothing is equal by chance
    assert before.weights_sha256() == unbroken.weights_sha256() != after.weights_sha256()
    for number in range(6):
        unbroken.step([number, number + 1, 11])
    for number in range(3):
        before.step([number, number + 1, 11])
    assert after.weights_sha256() != before.weights_sha256()
    after.restore(before.state())
    assert after.weights_sha256() == before.weights_sha256()
    for number in range(3, 6):
        after.step([number, number + 1, 11])
    assert after.weights_sha256() == unbroken.weights_sha256()
    assert after.state() == unbroken.state()


def test_without_the_moments_it_would_not_be_the_same(loaded: Loaded) -> None:
    """The control: the adapters alone are not enough to go on exactly."""
    unbroken, after = lora(loaded), lora(loaded)
    for _ in range(2):
        unbroken.step([0, 1])
    state = unbroken.state()
    after.restore({**state, text_lora.MOMENTS_FILE: lora(loaded).state()[text_lora.MOMENTS_FILE]})
    assert after.weights_sha256() == unbroken.weights_sha256()
    unbroken.step([2])
    after.step([2])
    assert after.weights_sha256() != unbroken.weights_sha256()


def test_a_step_whose_gradient_is_no_number_changes_nothing(loaded: Loaded) -> None:
    trainer = lora(loaded)
    trainer.step([0])
    kept = trainer.weights_sha256()
    with torch.no_grad():
        trainer._model.get_output_embeddings().weight.fill_(math.nan)
    assert math.isnan(trainer.step([1]).loss)
    assert trainer.weights_sha256() == kept


def test_rows_with_nothing_to_learn_from_are_no_error(loaded: Loaded) -> None:
    spec = replace(SPEC, columns=Columns(text="text"))
    trainer = lora(loaded, setup(spec, [{"text": ""}, {"text": "the"}]))
    assert trainer.step([0]).loss == 0.0
    assert trainer.step([0, 1]).loss > 0.0


def test_two_workers_with_unequal_shares_make_the_step_of_one(loaded: Loaded) -> None:
    """In float32, where a sum in another order shows only in the last digits."""
    rows = [dict(row) for row in ROWS[:5]]
    rows[0]["completion"] = "a long one, and then the rest of it"
    alone = lora(loaded, setup(rows=rows), "float32")
    expected = [alone.step(step).loss for step in ([0, 1, 2, 3, 4], [3], [2, 0])]
    meeting, found = threading.Barrier(2, timeout=WAIT_S), dict[int, list[float]]()
    shared: dict[int, tuple[list[Any], float]] = {}
    workers = [lora(loaded, setup(rows=rows, group=Pair(rank, meeting, shared)), "float32") for rank in range(2)]

    def work(rank: int) -> None:
        steps = ([0, 1, 2, 3, 4], [3], [2, 0])
        found[rank] = [workers[rank].step(step[rank::2]).loss for step in steps]

    run_together([lambda: work(0), lambda: work(1)])
    assert found[0] == found[1] == pytest.approx(expected, rel=1e-5)
    assert workers[0].weights_sha256() == workers[1].weights_sha256()
    for mine, theirs in zip(workers[0]._parameters, alone._parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_result_is_an_adapter_that_peft_reads_back(loaded: Loaded, tmp_path: Path) -> None:
    # Each worker collects this file, and peft takes 4 s to import.
    from peft import PeftModel  # noqa: PLC0415

    trainer = lora(loaded, dtype="float32")
    for _ in range(3):
        trainer.step(all_rows(trainer))
    result = trainer.save(tmp_path)
    assert (result.format, result.file) == ("safetensors", text_lora.WEIGHTS_FILE)
    assert {path.name for path in tmp_path.iterdir()} == {text_lora.WEIGHTS_FILE, text_lora.CONFIG_FILE}
    assert '"base_model_name_or_path": "tiny-llama"' in (tmp_path / text_lora.CONFIG_FILE).read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by a name that is on its way out
        again = PeftModel.from_pretrained(loaded.model("float32"), str(tmp_path))
    encoded = [encode_row(loaded.tokenizer, row, SPEC) for row in ROWS]
    with torch.no_grad():
        losses = [compute_losses(model, encoded).values for model in (again, trainer._model)]
    torch.testing.assert_close(*losses)


def test_an_architecture_it_is_not_made_for_is_refused(loaded: Loaded) -> None:
    capped = loaded.model("float32")
    capped.config.final_logit_softcapping = 30.0
    with refuses("AW-TRN-32", "final_logit_softcapping"):
        text_lora.add_adapters(capped, SPEC)
    odd = loaded.model("float32")
    for layer in odd.model.layers:
        del layer.mlp
    with refuses("AW-TRN-32", "gate_proj"):
        text_lora.add_adapters(odd, SPEC)

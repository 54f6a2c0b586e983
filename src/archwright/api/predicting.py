"""Sizing for anybody: `predict serving`, `predict training`, `accuracy`."""

from __future__ import annotations

import re
from pathlib import Path

from archwright import settings
from archwright.api.context import home_of
from archwright.catalog import names
from archwright.catalog.load import load as load_catalog
from archwright.catalog.subjects import Subjects
from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.errors import UsageError, Where
from archwright.home import write_atomic
from archwright.sizing import accuracy as scoring
from archwright.sizing import fits, serving, throughput
from archwright.sizing.serving import Guess

_LOAD = re.compile(r"^\s*(\d{1,9}|max)\s*x\s*(\d{1,9})\s*\+\s*(\d{1,9})\s*$", re.IGNORECASE)
_BATCH = re.compile(r"^\s*(\d{1,9})\s*x\s*(\d{1,9})\s*$", re.IGNORECASE)
_DEFINITIONS = {
    "tpot_s": "mean time between tokens of an answer in a closed loop, first token excluded",
    "ttft_s": "mean time from request to first token in a closed loop, first burst and queue included",
    "tokens_per_s": "output tokens/s of all the devices together",
}


class Sized(Record):
    """A prediction: its numbers with bands, why they may be believed, what is weak or assumed about them."""

    model: str
    accelerator: str
    devices: int
    stratum: str
    estimates: dict[str, Estimate]
    definitions: dict[str, str]
    formula: str
    sources: tuple[str, ...]
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def predict_serving(
    model: str, *, on: str, load: str = "max x 1024 + 1024", engine: str = "", layout: str = ""
) -> Sized:
    """TPOT, TTFT and output tokens/s of `model` on `on` ("4x NAME") under `load`: requests in flight x prompt +
    answer tokens, or `max x ...` for as many as fit. `layout` holds ranks and number format ("TP4 fp8").

    Raises CatalogError AW-CAT-01 for a name nobody knows, UsageError AW-USE-20 for a load that is none.
    """
    found = _LOAD.match(load)
    if found is None:
        raise _no_load(load, "64x1024+512, or max x 1024+512")
    sent, prompt, answer = found.groups()
    offline = sent.lower() == "max"
    count, name = names.machine(on)
    subjects = _subjects()
    asked = serving.Serving(
        model=model,
        accelerator=name,
        devices=count,
        parallelism=layout,
        precision=layout,
        engine=engine,
        scenario="offline_max" if offline else "fixed_concurrency_agg",
        concurrency=None if offline else float(sent) or None,
        input_tokens=float(prompt),
        output_tokens=float(answer),
    )
    got = serving.predict(asked, subjects)
    guesses = {"tpot_s": got.tpot_s, "ttft_s": None if offline else got.ttft_s, "tokens_per_s": got.tokens_per_s}
    units = {"tpot_s": "s", "ttft_s": "s", "tokens_per_s": "tokens/s"}
    estimates = {key: _estimate(guess, units[key]) for key, guess in guesses.items() if guess is not None}
    accelerator = subjects.accelerator(name)
    return Sized(
        model=subjects.model(model).id,
        accelerator=accelerator.id,
        devices=count,
        stratum=", ".join(part for part in (got.stratum, got.regime) if part),
        estimates=estimates,
        definitions={key: _DEFINITIONS[key] for key in estimates},
        formula="sizing/steps.py: smooth maximum of memory and compute, per-layer launch, prompts read in between",
        sources=(*_fitted("serving"), subjects.model(model).source, accelerator.source),
        weak=got.weak,
        assumed=got.assumed,
    )


def predict_training(
    model: str, *, on: str, load: str = "256x4096", layout: str = "", tokens: float | None = None
) -> Sized:
    """Tokens/s per device, step time and, for `tokens` in all, device hours of training `model` on `on`
    ("64x NAME") with a batch of `load`: sequences x tokens. `layout` holds ranks, format and recompute.

    Raises CatalogError AW-CAT-01 for a name nobody knows, UsageError AW-USE-20 for a batch that is none.
    """
    found = _BATCH.match(load)
    if found is None:
        raise _no_load(load, "256x4096: sequences x tokens")
    sequences, length = (float(part) for part in found.groups())
    count, name = names.machine(on)
    subjects = _subjects()
    asked = throughput.Training(
        model=model,
        accelerator=name,
        devices=count,
        sequence_tokens=length or None,
        batch_tokens=sequences * length,
        tokens=tokens,
        precision=layout,
        parallelism=layout,
        recompute="selective" if "selective" in layout.lower() else "full" if "full" in layout.lower() else "",
    )
    got = throughput.predict(asked, subjects)
    guesses = {
        "tokens_per_s_per_device": (got.tokens_per_s, "tokens/s"),
        "step_s": (got.step_s, "s"),
        "device_hours": (got.device_hours, "h"),
    }
    estimates = {key: _estimate(guess, unit) for key, (guess, unit) in guesses.items() if guess is not None}
    accelerator = subjects.accelerator(name)
    return Sized(
        model=subjects.model(model).id,
        accelerator=accelerator.id,
        devices=count,
        stratum=got.stratum,
        estimates=estimates,
        definitions={"device_hours": "throughput only: restarts, evaluation and data stages come on top"},
        formula="sizing/throughput.py: products, attention, traffic, exchange and the pipeline's bubble",
        sources=(*_fitted("training"), subjects.model(model).source, accelerator.source),
        weak=got.weak,
    )


def accuracy(file: str, *, rows_out: str | None = None) -> scoring.Accuracy:
    """Predict every row of a benchmark table (columns: docs/accuracy.md), score where it holds measurements.

    No measured column is looked at for a prediction. Raises PlanFileError for a table that is none.
    """
    out = None if rows_out is None else Path(rows_out)
    return scoring.run(Path(file), _subjects(), out, lambda path, text: write_atomic(path, text.encode(), mode=0o644))


def _subjects() -> Subjects:
    return Subjects(load_catalog(home_of(settings.load())))


def _no_load(load: str, example: str) -> UsageError:
    return UsageError("AW-USE-20", f"not a load: {load!r}", where=Where(field="load"), hint=f"for example {example}")


def _estimate(guess: Guess, unit: str) -> Estimate:
    return Estimate(value=guess.value, low=guess.low, high=guess.high, unit=unit)


def _fitted(name: str) -> tuple[str, ...]:
    made = fits.load(name).provenance
    return (f"fitted {made.date} on {made.rows_used} rows of {made.file} (sha256 {made.sha256[:12]}): {made.licence}",)

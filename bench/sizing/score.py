"""Leave-one-group-out over measured rows: `python -m bench.sizing.score TRUTH [-o docs/accuracy.md]`.

Every figure in docs/accuracy.md comes from here; `make accuracy TRUTH=DIR` writes it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.engine import fit_shares
from bench.sizing import fitting, regret, score_training, validation

from archwright.sizing.inference import serving_prediction

TARGETS = {
    ("tpot_s", serving_prediction.SEEN): "10",
    ("tpot_s", serving_prediction.NEW_MODEL): "15",
    ("tpot_s", serving_prediction.NEW_ACCELERATOR): "15",
    ("ttft_s", serving_prediction.SEEN): "22",
    ("ttft_s", serving_prediction.NEW_MODEL): "34",
    ("ttft_s", serving_prediction.NEW_ACCELERATOR): "30",
    ("pace_s", "source unseen"): "15",
}
NAMES = {"tpot_s": "TPOT", "ttft_s": "TTFT", "pace_s": "offline throughput"}
HEAD = "| what | stratum | rows | median error | mean | p90 | target (median) | in the 90 % interval | half-width |\n"
HEAD += "|---|---|---|---|---|---|---|---|---|\n"


def line(name: str, stratum: str, outs: Sequence[Any], target: str = "") -> str:
    errors = [abs(math.expm1(-out.residual)) * 100 for out in outs]
    covered, width = validation.coverage(outs)
    mean, p90 = sum(errors) / len(errors), validation.quantile(errors, 0.9)
    return (
        f"| {name} | {stratum} | {len(outs)} | {validation.quantile(errors, 0.5):.1f} % | {mean:.1f} % | {p90:.1f} % "
        f"| {target and '<= ' + target + ' %'} | {100 * covered:.1f} % | x{width:.2f} |\n"
    )


def tables(outs: Sequence[Any], strata: Iterable[str]) -> str:
    """Metric by stratum; disaggregated rows apart, as their worker counts are unreliable."""
    made = ""
    for metric in sorted({out.metric for out in outs}, key=list(NAMES).index):
        for stratum in strata:
            own = [out for out in outs if out.metric == metric and out.stratum == stratum]
            plain = [out for out in own if out.regime != serving_prediction.DISAGGREGATED]
            pooled = [out for out in own if out.regime == serving_prediction.DISAGGREGATED]
            if plain:
                made += line(NAMES[metric], stratum, plain, TARGETS.get((metric, stratum), ""))
            if pooled:
                made += line(f"{NAMES[metric]}, disaggregated", stratum, pooled)
    return made


def groups(outs: Sequence[Any], metric: str, stratum: str) -> str:
    """Per left-out group with rows enough: where it holds and where it does not."""
    made = "| left out | rows | median error | median measured / predicted |\n|---|---|---|---|\n"
    own = [
        out
        for out in outs
        if out.metric == metric and out.stratum == stratum and out.regime != serving_prediction.DISAGGREGATED
    ]
    for group in sorted({out.group for out in own}):
        part = [out for out in own if out.group == group]
        bias = math.exp(validation.quantile([out.residual for out in part], 0.5))
        made += (
            f"| {_named(part[0], stratum)} | {len(part)} | {100 * validation.median_error(part):.1f} % | {bias:.2f} |\n"
        )
    return made


def _named(out: Any, stratum: str) -> str:
    if stratum == serving_prediction.NEW_ACCELERATOR:
        return str(out.group)
    return f"{out.row.found.model.id} and its kin"


def _middle(outs: Sequence[validation.Out], metric: str) -> str:
    return f"{100 * validation.median_error([out for out in outs if out.metric == metric]):.1f}"


def document(folder: Path) -> str:
    rows, left_out = fitting.read(folder / "inference.csv")
    outs = [out for stratum in validation.STRATA for out in validation.out_of_fold(rows, stratum)]
    offline = validation.offline(rows)
    training = score_training.parts(folder)
    seen = [out for out in outs if out.stratum == serving_prediction.SEEN]
    body = (Path(__file__).parent / "accuracy.template.md").read_text(encoding="utf-8")
    parts = {
        "SERVING": HEAD + tables(outs, validation.STRATA) + tables(offline, ["source unseen"]),
        "MODELS": groups(outs, "tpot_s", serving_prediction.NEW_MODEL),
        "ACCELERATORS": groups(outs, "tpot_s", serving_prediction.NEW_ACCELERATOR),
        "REGRET": regret.table(seen),
        "SCORES": (Path(__file__).parents[1] / "quality" / "accuracy.section.md").read_text(encoding="utf-8"),
        "ENGINES": fit_shares.format_table(fit_shares.read_sweep()),
        **{f"ALL_{NAMES[metric]}": _middle(seen, metric) for metric in ("tpot_s", "ttft_s")},
        "ROWS": f"{len(rows)} serving rows, {left_out} that name no device, {training['TRAINED_ROWS']}",
        **training,
    }
    for name, text in parts.items():
        body = body.replace(f"{{{name}}}", text.rstrip("\n"))
    return body


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("truth", type=Path)
    asked.add_argument("-o", "--output", type=Path)
    chosen = asked.parse_args()
    text = document(chosen.truth)
    if chosen.output is None:
        sys.stdout.write(text)
    else:
        chosen.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

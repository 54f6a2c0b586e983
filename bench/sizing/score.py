"""Leave-one-group-out over measured rows: `python -m bench.sizing.score TRUTH [-o docs/accuracy.md]`.

Every figure in docs/accuracy.md comes from here; `make accuracy TRUTH=DIR` writes it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.engine import fit_shares
from bench.sizing import fitting, regret, score_training, validation
from scipy.stats import binom

from archwright.sizing.inference import serving_prediction

# Median errors to reach, in percent: on the closed loops of inference.csv, and on inference_more.csv.
TARGETS = {
    (fitting.TABLES[0], "tpot_s", serving_prediction.SEEN): 7,
    (fitting.TABLES[0], "tpot_s", serving_prediction.NEW_MODEL): 12,
    (fitting.TABLES[0], "tpot_s", serving_prediction.NEW_ACCELERATOR): 12,
    (fitting.TABLES[0], "ttft_s", serving_prediction.SEEN): 17,
    (fitting.TABLES[0], "ttft_s", serving_prediction.NEW_MODEL): 28,
    (fitting.TABLES[0], "ttft_s", serving_prediction.NEW_ACCELERATOR): 26,
    **{
        (fitting.TABLES[1], metric, stratum): target
        for metric, target in (("tpot_s", 18), ("ttft_s", 35), ("pace_s", 22))
        for stratum in (serving_prediction.NEW_ACCELERATOR, serving_prediction.NEW_SOURCE)
    },
}
NAMES = {"tpot_s": "TPOT", "ttft_s": "TTFT", "pace_s": "throughput"}
HEAD = "| table | what | left out | rows | median error | mean | p90 | target (median) |\n"
HEAD += "|---|---|---|---|---|---|---|---|\n"
BAND_HEAD = "| what | left out | kind of load | rows | median error | in the 90 % interval | half-width |\n"
BAND_HEAD += "|---|---|---|---|---|---|---|\n"
# A stratum of so many rows shows whether its bands hold; a group of so many has a line.
ROWS_THAT_SHOW, ROWS_OF_A_GROUP = 60, 10
Outs = Sequence[validation.Out]


def _errors(outs: Outs) -> list[float]:
    return [abs(math.expm1(-out.residual)) * 100 for out in outs]


def tables(outs: Outs) -> str:
    """Table by metric and stratum; disaggregated rows apart, as their worker counts are unreliable."""
    made, pooled = HEAD, serving_prediction.DISAGGREGATED
    for name in fitting.TABLES:
        for metric in NAMES:
            for stratum in validation.STRATA:
                for kind in ("", pooled):
                    part = [
                        out
                        for out in outs
                        if (out.row.table, out.metric, out.stratum, out.regime == pooled)
                        == (name, metric, stratum, kind == pooled)
                    ]
                    if part and not (name == fitting.TABLES[0] and stratum == serving_prediction.NEW_SOURCE):
                        made += _line(f"{NAMES[metric]}{kind and ', ' + kind}", part, "" if kind else metric)
    return made


def _line(what: str, outs: Outs, metric: str) -> str:
    errors, first = _errors(outs), outs[0]
    target = TARGETS.get((first.row.table, metric, first.stratum), "")
    mean, p90 = sum(errors) / len(errors), validation.quantile(errors, 0.9)
    return (
        f"| {first.row.table} | {what} | {first.stratum.removeprefix('unseen ').removeprefix('seen ')} | {len(outs)} "
        f"| {validation.quantile(errors, 0.5):.1f} % | {mean:.0f} % | {p90:.0f} % | {target and f'<= {target} %'} |\n"
    )


def bands(outs: Outs) -> tuple[str, int, int]:
    """Coverage per metric, stratum and regime; how many of the strata that show hold, and how many there are."""
    made, held, shown = BAND_HEAD, 0, 0
    for metric in NAMES:
        for stratum in validation.STRATA:
            own = [out for out in outs if out.metric == metric and out.stratum == stratum]
            for regime in sorted({out.regime for out in own}):
                part = [out for out in own if out.regime == regime]
                groups = len({out.group for out in part})
                if len(part) < ROWS_THAT_SHOW or groups < 2:
                    continue
                covered, width = validation.coverage(part)
                low, high = (end / len(part) for end in binom.interval(0.95, len(part), validation.LEVEL))
                shown, held = shown + 1, held + (low <= covered <= high)
                left = stratum.removeprefix("unseen ").removeprefix("seen ")
                error = 100 * validation.median_error(part)
                made += (
                    f"| {NAMES[metric]} | {left} | {regime} | {len(part)} | {error:.0f} % "
                    f"| {100 * covered:.1f} % ({100 * low:.0f} to {100 * high:.0f}) | x{width:.2f} |\n"
                )
    return made, held, shown


def groups(outs: Outs, metric: str, stratum: str) -> str:
    """Per left-out group with rows enough: where it holds and where it does not."""
    made = "| left out | rows | median error | median measured / predicted |\n|---|---|---|---|\n"
    own = [out for out in outs if out.metric == metric and out.stratum == stratum]
    plain = [out for out in own if out.regime != serving_prediction.DISAGGREGATED]
    for group in sorted({out.group for out in plain}):
        part = [out for out in plain if out.group == group]
        if len(part) >= ROWS_OF_A_GROUP:
            bias = math.exp(validation.quantile([out.residual for out in part], 0.5))
            named = f"{part[0].row.found.model.id} and its kin" if stratum == serving_prediction.NEW_MODEL else group
            made += (
                f"| {named.split(' (')[0]} | {len(part)} | {100 * validation.median_error(part):.1f} % | {bias:.2f} |\n"
            )
    return made


def document(folder: Path) -> str:
    rows, left_out = fitting.read(folder)
    outs = validation.all_strata(rows)
    coverage, held, shown = bands(outs)
    training = score_training.parts(folder)
    seen = [out for out in outs if out.stratum == serving_prediction.SEEN and out.row.table == fitting.TABLES[0]]
    here = Path(__file__).parent
    body = (here / "accuracy.template.md").read_text(encoding="utf-8")
    parts = {
        "BASELINE": (here / "serving_baseline.section.md").read_text(encoding="utf-8"),
        "SERVING": tables(outs),
        "COVERAGE": coverage,
        "HELD": f"{held} of {shown}",
        "SOURCES": groups(outs, "tpot_s", serving_prediction.NEW_SOURCE),
        "MODELS": groups(outs, "tpot_s", serving_prediction.NEW_MODEL),
        "ACCELERATORS": groups(outs, "tpot_s", serving_prediction.NEW_ACCELERATOR),
        "REGRET": regret.table(seen),
        "SCORES": (here.parent / "quality" / "accuracy.section.md").read_text(encoding="utf-8"),
        "ENGINES": fit_shares.format_table(fit_shares.read_sweep()),
        "ROWS": f"{len(rows)} serving rows on accelerators, {left_out} others, {training['TRAINED_ROWS']}",
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

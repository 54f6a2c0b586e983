"""Fits the rows of efficiencies.csv to a sweep, and scores them with each model size left out.

    python -m bench.engine.fit_shares [bench/engine/sweep.csv]

The columns of sweep.csv are the fields of sweep.py's lines. A share is the geometric mean over the sizes of (time at
share 1) / (measured time): prompts, answers of fewer than four, and of four together. Sizes whose width is no multiple
of a K format's block belong to the format that llama.cpp uses instead.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from bench.engine.synthetic_model import SHAPES

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.contract.estimate import exact_estimate
from archwright.contract.record import replace
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedRequest
from archwright.simulate.serving_simulation import RATE_NOISE
from archwright.sizing.hardware.roofline import Hardware, Roofline

SWEEP = Path(__file__).parent / "sweep.csv"
BATCH_TOKENS, CONTEXT = 64, 20
BATCHED_FROM = 4
# Noise between runs of one point, as in simulate/serving_simulation.py.
NOISE = RATE_NOISE
PROMPTS, BATCHES = (64, 128, 256, 512), (1, 2, 4)
SHARES = {
    "prefill": "prefill_share_of_matmul",
    "decode": "decode_share_of_matmul",
    "batched": "decode_share_of_matmul_batched",
}


class SweepPoint(NamedTuple):
    """One model on one engine. `seconds`: (phase, tokens of the prompt or answers together) -> time of it."""

    model: ModelSpec
    format: str
    threads: int
    file_bytes: int
    hardware: Hardware
    seconds: dict[tuple[str, int], float]
    startup_s: float
    peak_bytes: float


def read_sweep(path: Path = SWEEP) -> list[SweepPoint]:
    catalog = load_catalog()
    with path.open(encoding="utf-8", newline="") as file:
        return [_read_point(row, catalog.models["Qwen3-8B"]) for row in csv.DictReader(file)]


def _read_point(row: dict[str, str], like: ModelSpec) -> SweepPoint:
    shape = SHAPES[row["shape"]]
    model = replace(
        like,
        id=row["shape"],
        layers=shape.layers,
        full_attention_layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_width,
        ffn=shape.ffn,
        vocabulary=49_152,
        kv_bytes_per_token_bf16=None,
    )
    inner = 2 * shape.hidden * shape.head_width * (shape.heads + shape.kv_heads)
    count = shape.layers * (inner + 3 * shape.hidden * shape.ffn) + model.vocabulary * shape.hidden
    seconds = {("prefill", n): float(row[f"prefill_{n}_s"]) for n in PROMPTS if row[f"prefill_{n}_s"]}
    for batch in BATCHES:
        phase = "batched" if batch >= BATCHED_FROM else "decode"
        seconds |= {(phase, batch): float(row[f"decode_{batch}_s"])} if row[f"decode_{batch}_s"] else {}
    quantisation = {"F16": "fp16"}.get(row["quantisation"], row["quantisation"])
    return SweepPoint(
        model=replace(model, parameters=count, active_parameters=count),
        format=load_catalog().stored_format(model, quantisation),
        threads=int(row["threads"]),
        file_bytes=int(row["bytes"]),
        hardware=Hardware(
            name="this-machine",
            memory_bytes=1 << 40,
            bandwidth_bytes_per_s=exact_estimate(float(row["bandwidth"]), "bytes/s"),
            compute_flops_per_s=exact_estimate(float(row["matmul"]), "FLOP/s"),
        ),
        seconds=seconds,
        startup_s=float(row["startup_cpu_s"] or 0.0),
        peak_bytes=float(row["peak"] or 0.0),
    )


def predict_seconds(point: SweepPoint, row: Efficiency, phase: str, count: int) -> float:
    roofline = Roofline(point.model, point.file_bytes, row, point.hardware)
    if phase != "prefill":
        return roofline.decode_s(count, CONTEXT)
    engine = ContinuousBatching(roofline, 1, BATCH_TOKENS)
    return engine.run([SimulatedRequest(0.0, count, 0, 1)])[0].ttft_s or 0.0


def fit_row(points: Iterable[SweepPoint], row: Efficiency) -> Efficiency:
    """Return `row` with the shares of `points`; its share of the bandwidth stays."""
    unit = replace(row, decode_share_of_bandwidth=1e9, **dict.fromkeys(SHARES.values(), 1.0))
    found: dict[str, list[float]] = {phase: [] for phase in SHARES}
    for point in points:
        for phase, logs in found.items():
            ratios = [
                math.log(predict_seconds(point, unit, phase, count) / took)
                for (of, count), took in point.seconds.items()
                if of == phase
            ]
            logs += [fmean(ratios)] if ratios else []  # each size counts once
    return replace(row, **{SHARES[phase]: math.exp(fmean(logs)) for phase, logs in found.items() if logs})


def list_errors(points: Sequence[SweepPoint], row: Efficiency) -> dict[tuple[str, str, int], float]:
    """Return measured / predicted by (size, phase, count)."""
    return {
        (point.model.id, phase, count): took / predict_seconds(point, row, phase, count)
        for point in points
        for (phase, count), took in point.seconds.items()
    }


def leave_sizes_out(points: Sequence[SweepPoint], row: Efficiency) -> dict[tuple[str, str, int], float]:
    """Return the errors of each size with shares fitted on the other sizes of the same format."""
    found: dict[tuple[str, str, int], float] = {}
    for name in dict.fromkeys(point.model.id for point in points):
        others = [point for point in points if point.model.id != name]
        if others:
            found |= list_errors([point for point in points if point.model.id == name], fit_row(others, row))
    return found


def format_table(points: Iterable[SweepPoint]) -> str:
    """Return a Markdown table: errors with each size left out, and the share of the points in the shipped bands."""
    catalog, by_format = load_catalog(), dict[str, list[SweepPoint]]()
    for point in points:
        if point.threads == 1:
            by_format.setdefault(point.format, []).append(point)
    lines = ["| format | sizes | phase | figures | median error, size left out | largest | in the shipped band |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kind, own in sorted(by_format.items()):
        row = catalog.efficiency("llamacpp", kind, "avx2")
        out, shipped = leave_sizes_out(own, row), list_errors(own, row)
        for phase, name in zip(SHARES, ("prompt", "answers, 1 and 2 at once", "4 answers at once"), strict=True):
            errors = [abs(ratio - 1) for key, ratio in out.items() if key[1] == phase]
            ratios = [ratio for key, ratio in shipped.items() if key[1] == phase]
            inside = sum(1 / row.low_factor / NOISE <= ratio <= row.high_factor * NOISE for ratio in ratios)
            scored = f"{median(errors):.0%} | {max(errors):.0%}" if errors else "one size | "
            sizes = " ".join(point.model.id for point in own)
            lines.append(f"| {kind} | {sizes} | {name} | {len(ratios)} | {scored} | {inside} of {len(ratios)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    points = [point for point in read_sweep(Path(sys.argv[1]) if sys.argv[1:] else SWEEP) if point.threads == 1]
    print(format_table(points))
    catalog = load_catalog()
    for kind in dict.fromkeys(point.format for point in points):
        own = [point for point in points if point.format == kind]
        row = fit_row(own, catalog.efficiency("llamacpp", kind, "avx2"))
        print(f"{kind}: {', '.join(f'{phase} {getattr(row, share):.3f}' for phase, share in SHARES.items())}")
        errors = leave_sizes_out(own, row)
        for phase in SHARES:
            of = {key: ratio for key, ratio in errors.items() if key[1] == phase}
            if of:
                shown = ", ".join(f"{name} {count}: {ratio:.2f}" for (name, _, count), ratio in of.items())
                off = median(abs(ratio - 1) for ratio in of.values())
                print(f"  {phase}: median error {off:.0%}, measured / predicted left out: {shown}")


if __name__ == "__main__":
    main()

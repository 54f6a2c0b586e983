"""The split we would choose against the fastest that was measured: `python -m bench.sizing.splits TRUTH`.

For each combination of model, device, count and sequence of the measured rows in 16 bits: predicted tokens/s of the
chosen split over the best measured. The row training.utilisation comes from here.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.load import load_catalog
from archwright.sizing import benchmark_reader
from archwright.sizing.training.parallel_strategy import (
    TrainingSetup,
    choose_parallel_plan,
    predict_token_time,
)
from archwright.sizing.training.token_throughput import build_training_job
from archwright.sizing.training.training_memory import TrainableModel, device_memory_budget
from archwright.sizing.training.training_prediction import build_cluster

LARGE = 10e9
Key = tuple[str, str, int, float]


def measured(path: Path, subjects: BenchmarkNameResolver) -> dict[Key, tuple[float, float]]:
    """Best tokens/s a device, and the tokens of its step."""
    found: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    for _, cells in benchmark_reader.read_rows(path):
        asked, _ = benchmark_reader.parse_training_query(cells)
        rate = benchmark_reader.read_number(cells, "tok_s_per_gpu", [])
        narrow = "8" in asked.precision.lower().replace("bf16", "")
        if rate and asked.devices and asked.sequence_tokens and not narrow:
            names = subjects.model(asked.model).id, subjects.accelerator(asked.accelerator).id
            found[*names, asked.devices, asked.sequence_tokens].append((rate, asked.batch_tokens or 0.0))
    return {key: max(rows) for key, rows in found.items()}


def main() -> None:
    subjects = BenchmarkNameResolver(load_catalog())
    ratios: list[tuple[float, float]] = []
    inside = 0
    for (name, device, count, sequence), (rate, batch) in sorted(measured(Path(sys.argv[1]), subjects).items()):
        model, accelerator = subjects.model(name), subjects.accelerator(device)
        subject = TrainableModel(model, sequence)
        asked = TrainingSetup(subject, max(batch, sequence * count), build_training_job(model, accelerator, sequence))
        choice = choose_parallel_plan(
            asked, build_cluster(accelerator, count), device_memory_budget(accelerator, subjects.catalog)
        )
        if choice is None:
            sys.stdout.write(f"{name} on {count} x {device}: no split fits\n")
            continue
        guess, *_ = predict_token_time(asked, choice, subjects.catalog)
        inside += guess.low <= 1 / rate <= guess.high
        ratios.append((model.active_parameters, 1 / guess.value / rate))
        said = f"{name} on {count} x {device}, {sequence:.0f} tokens: {rate:,.0f} measured, "
        sys.stdout.write(f"{said}{1 / guess.value:,.0f} predicted for {choice.scheme.layout_text}\n")
    for word, own in (("all", ratios), ("large", [one for one in ratios if one[0] > LARGE])):
        found = sorted(ratio for _, ratio in own)
        ends = found[len(found) // 20], statistics.median(found), found[len(found) * 19 // 20]
        sys.stdout.write(f"{word}: {len(found)}, p5, median, p95 of predicted / measured: {ends}\n")
    sys.stdout.write(f"in the band: {inside} of {len(ratios)}\n")


if __name__ == "__main__":
    main()

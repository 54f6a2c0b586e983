"""Two rules of thumb against published runs and today's prices: `python -m bench.sizing.rules -o docs/rules.md`.

A large model from scratch takes 100 to 1,000 accelerators and 1 to 10 million USD; a fine-tune 10,000 to 100,000 USD.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.sizing.model import parametric_model
from archwright.sizing.training.cluster_training import (
    ClusterRunPrediction,
    TrainingMethod,
    TrainingRunSpec,
    build_training_setup,
    predict_cluster_run,
)
from archwright.sizing.training.training_prediction import build_cluster

HERE = Path(__file__).parent
PUBLISHED = HERE / "published_runs.csv"
RULES: dict[str, tuple[float, float]] = {"pretrain": (1e6, 10e6), "finetune": (10e3, 100e3)}
DEVICES = (100, 1000)
TODAY = "H100-SXM-80GB"
# A run from scratch is wanted within four months, a fine-tune within a week.
DAYS = {"pretrain": 120.0, "lora": 7.0, "full": 7.0}
TRIES = 10
MOST_DEVICES = 65_536


class Kind(NamedTuple):
    """A class of models: how many parameters (or a row), trained on how many tokens."""

    name: str
    model: str
    method: TrainingMethod
    tokens: float
    precision: str = "bf16"


KINDS = (
    Kind("1B, 20 tokens a parameter", "1B", "pretrain", 20e9),
    Kind("8B, 20 tokens a parameter", "8B", "pretrain", 160e9),
    Kind("8B, 15 trillion tokens", "Llama-3.1-8B-Instruct", "pretrain", 15e12),
    Kind("32B, 2 trillion tokens", "Qwen2.5-32B-Instruct", "pretrain", 2e12),
    Kind("70B, 20 tokens a parameter", "Llama-3.1-70B-Instruct", "pretrain", 1.4e12),
    Kind("70B, 15 trillion tokens", "Llama-3.1-70B-Instruct", "pretrain", 15e12),
    Kind("405B, 15 trillion tokens", "Llama-3.1-405B-Instruct", "pretrain", 15e12),
    Kind("8B adapters, 15 million tokens", "Llama-3.1-8B-Instruct", "lora", 15e6),
    Kind("8B adapters, 1 billion tokens", "Llama-3.1-8B-Instruct", "lora", 1e9),
    Kind("8B whole, 2 billion tokens", "Llama-3.1-8B-Instruct", "full", 2e9),
    Kind("70B adapters, 1 billion tokens", "Llama-3.1-70B-Instruct", "lora", 1e9),
    Kind("70B whole, 2 billion tokens", "Llama-3.1-70B-Instruct", "full", 2e9),
    Kind("70B whole, 20 billion tokens", "Llama-3.1-70B-Instruct", "full", 20e9),
    Kind("405B whole, 2 billion tokens", "Llama-3.1-405B-Instruct", "full", 2e9),
)


def price(catalog: Catalog, accelerator: str) -> Estimate | None:
    """USD per device and hour on demand: the middle of the providers' cheapest offers, with the
    lowest and the highest of them: a buyer compares providers.
    """
    cheapest: dict[str, float] = {}
    for offer in catalog.offers:
        if offer.accelerator == accelerator and offer.on_demand_usd_per_hour and offer.accelerator_share == 1:
            each = offer.on_demand_usd_per_hour / offer.accelerator_count
            cheapest[offer.provider] = min(each, cheapest.get(offer.provider, each))
    if not cheapest:
        return None
    found = sorted(cheapest.values())
    return Estimate(value=statistics.median(found), low=found[0], high=found[-1], unit="USD/h")


def model_of(name: str, subjects: BenchmarkNameResolver) -> tuple[ModelSpec, bool]:
    """A row, or for "8B" the middle of the models of that size."""
    if name[:-1].isdigit():
        count = float(name[:-1]) * 1e9
        return parametric_model.build_parametric_model(name, count, count), False
    return subjects.model(name), True


def predicted(
    kind: Kind, accelerator: Accelerator, devices: int, subjects: BenchmarkNameResolver
) -> ClusterRunPrediction | None:
    model, trusted = model_of(kind.model, subjects)
    asked = build_training_setup(model, accelerator, kind.method, subjects.catalog, kind.precision)
    return predict_cluster_run(
        asked, build_cluster(accelerator, devices), TrainingRunSpec(kind.tokens, kind.method, trusted), subjects.catalog
    )


def in_time(kind: Kind, accelerator: Accelerator, subjects: BenchmarkNameResolver) -> tuple[int, ClusterRunPrediction]:
    """The fewest devices, in whole machines of eight and doublings, that end in time."""
    devices = 8
    while devices <= MOST_DEVICES:
        found = predicted(kind, accelerator, devices, subjects)
        if found is not None and found.days.value <= DAYS[kind.method]:
            return devices, found
        devices *= 2
    raise ValueError(f"{kind.name}: no cluster ends in time")


def number(value: float) -> str:
    """Three significant digits, grouped; two below ten."""
    if value < 10:
        return f"{value:.2g}"
    return f"{float(f'{value:.3g}'):,.0f}"


def band(estimate: Estimate) -> str:
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def verdict(estimate: Estimate, rule: tuple[float, float]) -> str:
    low, high = rule
    if low <= estimate.value <= high:
        return "holds"
    word = "less" if estimate.value < low else "more"
    return f"{word}, the band reaches it" if estimate.low <= high and estimate.high >= low else word


def rows() -> Iterator[dict[str, str]]:
    with PUBLISHED.open(encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)


def published(subjects: BenchmarkNameResolver) -> tuple[str, int, int]:
    """The table, how many rows lie in their band, how many there are."""
    names = ("run", "on", "published hours", "predicted [90 %]", "published / predicted", "in the band")
    made = f"| {' | '.join(names)} | at today's price | rule |\n|---|---|---|---|---|---|---|---|\n"
    inside, count = 0, 0
    for row in rows():
        accelerator = subjects.accelerator(row["accelerator"])
        method: TrainingMethod = row["method"]  # type: ignore[assignment]
        kind = Kind(row["run"], row["model"], method, float(row["tokens_b"]) * 1e9, row["precision"])
        found = predicted(kind, accelerator, int(row["devices"]), subjects)
        hours = float(row["device_hours"])
        if found is None:
            raise ValueError(f"{row['run']}: no split fits")
        within = found.device_hours.low <= hours <= found.device_hours.high
        inside, count = inside + within, count + 1
        said, judged = paid_for(row, price(subjects.catalog, accelerator.id))
        cells = (
            row["run"],
            f"{row['devices']} x {accelerator.id}",
            number(hours),
            band(found.device_hours),
            f"{hours / found.device_hours.value:.2f}",
            "yes" if within else "no",
            said,
            judged,
        )
        made += f"| {' | '.join(cells)} |\n"
    return made, inside, count


def paid_for(row: dict[str, str], an_hour: Estimate | None) -> tuple[str, str]:
    """The run's hours at today's price, with what its source states it cost, and how the rule fares."""
    said = "no offer"
    cost = None
    if row["cost_usd"]:
        stated = float(row["cost_usd"])
        cost = Estimate(value=stated, low=stated, high=stated, unit="USD")
    if an_hour is not None:
        cost = an_hour.scaled(float(row["device_hours"]), unit="USD")
        said = f"{number(cost.value)} USD"
    if row["cost_usd"]:
        said += f" (stated: {number(float(row['cost_usd']))})"
    rule = RULES["pretrain" if row["method"] == "pretrain" else "finetune"]
    return said, "" if cost is None else verdict(cost, rule)


def classes(subjects: BenchmarkNameResolver, methods: tuple[str, ...]) -> str:
    accelerator = subjects.accelerator(TODAY)
    paid = price(subjects.catalog, TODAY)
    assert paid is not None
    scratch = methods == ("pretrain",)
    made = "| what | accelerators | days | accelerator hours [90 %] | USD [90 %] | rule |\n|---|---|---|---|---|---|\n"
    for kind in (one for one in KINDS if one.method in methods):
        devices, found = in_time(kind, accelerator, subjects)
        cost = multiply_estimates([found.device_hours, paid], "USD")
        said = verdict(cost, RULES["pretrain" if scratch else "finetune"])
        if scratch:
            fits = DEVICES[0] <= devices <= DEVICES[1]
            said = f"money: {said}; accelerators: {'holds' if fits else 'fewer' if devices < DEVICES[0] else 'more'}"
        else:
            said = f"one run: {said}; {TRIES} runs: {verdict(cost.scaled(TRIES), RULES['finetune'])}"
        cells = (kind.name, f"{devices:,}", number(found.days.value), band(found.device_hours), band(cost), said)
        made += f"| {' | '.join(cells)} |\n"
    return made


def document() -> str:
    subjects = BenchmarkNameResolver(load_catalog())
    table, inside, count = published(subjects)
    paid = price(subjects.catalog, TODAY)
    assert paid is not None
    sources = sorted({f"- {row['run']}: {row['source']} ({row['confidence']})" for row in rows()})
    body = (HERE / "rules.template.md").read_text(encoding="utf-8")
    parts = {
        "PUBLISHED": table,
        "INSIDE": f"{inside} of {count}",
        "SCRATCH": classes(subjects, ("pretrain",)),
        "FINETUNE": classes(subjects, ("lora", "full")),
        "PRICE": f"{TODAY} at {paid.value:.2f} USD an hour (the middle of the providers' cheapest offers, "
        f"{paid.low:.2f} to {paid.high:.2f})",
        "SOURCES": "\n".join(sources),
    }
    for name, text in parts.items():
        body = body.replace(f"{{{name}}}", text.rstrip("\n"))
    return body


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("-o", "--output", type=Path)
    chosen = asked.parse_args()
    text = document()
    if chosen.output is None:
        sys.stdout.write(text)
    else:
        chosen.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

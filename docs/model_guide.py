"""Writes docs/models.md: models that the planner chooses on assumed machines, with predictions, and their quality."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec, MachineFacts
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.served_load import PooledLoad
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.demand.model_quality import BENCHMARKS, rate_models
from archwright.plan.demand.model_selection import select_open_models
from archwright.plan.options.local_models import OTHERS_SHARE, QUALITY_MARGIN, LocalModelChooser
from archwright.plan.options.this_machine_gpu import AcceleratorPlanner
from archwright.simulate.pool_simulation import predict_pool
from archwright.simulate.serving_simulation import estimate_peak_memory, predict_serving
from archwright.sizing.model.engine_memory import USABLE_SHARE
from archwright.sizing.model.numeric_precision import WEIGHT_BITS
from archwright.sizing.step_time.step_work import USABLE_MEMORY_SHARE

GIB = 2**30
CHOICES = 3
PROMPT, ANSWER = 1000.0, 200.0


class AssumedMachine(NamedTuple):
    """Rates of one thread; all are assumed, none is measured."""

    name: str
    cores: int
    memory_gib: int
    gb_per_s: float
    gflop_per_s: float
    isa: str

    def to_facts(self) -> MachineFacts:
        return MachineFacts(
            cores_usable=self.cores,
            memory_bytes=self.memory_gib * GIB,
            memory_bandwidth_bytes_per_s=within_factor(self.gb_per_s * 1e9, 1.1, "bytes/s"),
            matmul_flops_per_s=within_factor(self.gflop_per_s * 1e9, 1.1, "FLOP/s"),
            disk_write_bytes_per_s=within_factor(1e9, 1.2, "bytes/s"),
            disk_free_bytes=200 * GIB,
            isa=self.isa,
            gpus=(),
            probed_at=0.0,
        )


MACHINES = (
    AssumedMachine("laptop, 8 GB", 4, 8, 10.0, 60.0, "avx2"),
    AssumedMachine("laptop, 16 GB", 8, 16, 14.0, 90.0, "avx2"),
    AssumedMachine("workstation, 32 GB", 16, 32, 14.0, 90.0, "avx512"),
    AssumedMachine("server, 64 GB", 32, 64, 12.0, 80.0, "avx512"),
)


class AssumedServer(NamedTuple):
    """A machine with `cards` equal accelerators, which its tool reports as `report`, and vLLM."""

    name: str
    report: str
    cards: int
    memory_gib: int

    def to_facts(self) -> MachineFacts:
        host = AssumedMachine(self.name, 16, self.memory_gib, 12.0, 80.0, "avx512").to_facts()
        return replace(host, gpus=(self.report,) * self.cards, programs=("vllm",), disk_free_bytes=1000 * GIB)


SERVERS = (
    AssumedServer("workstation, RTX 4090 24 GB", "NVIDIA GeForce RTX 4090 (24.0 GiB)", 1, 64),
    AssumedServer("server, L40S 48 GB", "NVIDIA L40S (48.0 GiB)", 1, 128),
    AssumedServer("server, H100 80 GB", "NVIDIA H100 80GB HBM3 (79.6 GiB)", 1, 256),
    AssumedServer("server, 2 x H100 80 GB", "NVIDIA H100 80GB HBM3 (79.6 GiB)", 2, 256),
)
HEAD = f"""# Models for this machine

`archwright up` serves the best model that the home holds, and names a better one if a download would give it.
`archwright up --download` and `archwright plan NEEDS --download` choose among all files of the catalog. They name the
file, its size and its licence, and then fetch it. A workload with `model: NAME` keeps that model.

The demo and the tests use SmolLM2-135M, a model of 135 million parameters that answers few questions well.

## How a model is chosen

1. The needs: licence, quality floors, context.
2. Memory: weights, the cache of the whole context for each slot, overhead. A model that the needs name may use
   {USABLE_SHARE:.0%} of the memory. Any other model may use {USABLE_SHARE - OTHERS_SHARE:.0%}, since a person uses the
   machine too.
3. Speed: the latency limits of the needs at the peak, as predicted for this processor if no other program runs. The
   probe counts processor time, so a busy moment does not change the choice. Predictions are for the present speed.
4. Quality, then the larger quantisation, then the smaller file. A file of the home stays unless the quality of another
   model is better by {QUALITY_MARGIN:g}.

## Quality

"""
CLOSING = """The first row of a machine is the best model that keeps the limits; the others are the next. A plan also
tries a typical peak window, and may then choose a smaller quantisation."""
SERVER_HEAD = f"""
## With a GPU

The engine is vLLM, which never ran on hardware in this project ([engines.md](engines.md)). No row of this table was
compared with a run on such a machine. The predictions come from published benchmarks of other machines; each has its
90 % interval. Needs and requests are those of the table above.
The engine takes {USABLE_MEMORY_SHARE:.0%} of the memory of each card:
the weights, and the cache for the rest. A model of 16 bits can be loaded in fp8; 4 bits need a repository that
holds them. A plan uses as few cards as keep the limits.

| machine | model | format | cards | weights | start | first token | tokens/s |
|---|---|---|---|---|---|---|---|
"""
LIMITS = """
A rank is only as good as public scores. Try the model on your own questions, and set floors in the needs
(`quality: {mmlu_pro: 0.5}`) where you know what you need.

## Which model for which machine

The machines below are assumed: their rates per thread are typical figures, not measurements. `archwright plan` measures
yours. The needs are those of `archwright init --template desk`: one person, prompts of 150 tokens, a first token within
20 s, at least 4 tokens/s.
The predictions are for one request at a time with a prompt of 1,000 tokens; each has its 90 % interval. Intervals are
wide for instruction sets and quantisations that the project has not measured.

| machine | assumed per thread |
|---|---|
"""


def generate_model_guide(source: Path) -> str:
    """Return the page; `source` is the folder of the package, whose rule of quality is quoted."""
    catalog = load_catalog()
    text = (source / "plan" / "demand" / "model_quality.py").read_text(encoding="utf-8").split('"""')[1]
    rule = text.split("\n\n", 1)[1].replace("BENCHMARKS", f"six benchmarks ({', '.join(BENCHMARKS)})").strip()
    lines = [HEAD + rule, "", *_list_qualities(catalog), LIMITS.rstrip("\n")]
    lines += [
        f"| {one.name} | {one.cores} cores ({one.isa}), {one.gb_per_s:g} GB/s, {one.gflop_per_s:g} GFLOP/s |"
        for one in MACHINES
    ]
    lines += ["", "| machine | model | memory | start | first token | tokens/s |", "|---|---|---|---|---|---|"]
    for machine in MACHINES:
        lines += _list_choices(catalog, machine)
    lines += ["", CLOSING, SERVER_HEAD.rstrip("\n")]
    for server in SERVERS:
        lines += _list_server_choices(catalog, server)
    return "\n".join(lines) + "\n"


def _list_qualities(catalog: Catalog) -> list[str]:
    lines = ["| model | quality | scores | parameters | context | licence |", "|---|---|---|---|---|---|"]
    qualities = rate_models(catalog.models.values())
    for name in sorted(set(catalog.model_files) & set(qualities), key=lambda one: -qualities[one].share):
        model, rated = catalog.models[name], qualities[name]
        size = f"{model.parameters / 1e9:.3g} B"
        size += f" ({model.active_parameters / 1e9:.2g} B active)" if model.experts else ""
        scores = f"{rated.scores} of {len(BENCHMARKS)}"
        lines.append(f"| {name} | {rated.share:.2f} | {scores} | {size} | {model.context_tokens:,} | {model.licence} |")
    return lines


def _list_choices(catalog: Catalog, machine: AssumedMachine) -> list[str]:
    needs, _ = parse_needs(read_template("desk").encode(), "needs.yaml", catalog)
    (demand,) = list_text_demands(needs)
    chooser = LocalModelChooser(catalog, catalog.embedded_engine, machine.to_facts())
    files, lines = chooser.list_files(select_open_models(demand, catalog).models), list[str]()
    shown = set[str]()
    for file, spec in chooser.list_passing(demand, files, chooser.usable_memory(named=False)):
        if file.model.id in shown or len(shown) == CHOICES:
            continue
        shown.add(file.model.id)
        seen = predict_serving(replace(spec, load=_ask_one(spec.load), slots=1))
        memory = estimate_peak_memory(spec, "")
        rate = seen.tpot_p50_s.divide_amount(1.0, "tokens/s")
        figures = [
            _format(memory, 1e9, "GB"),
            _format(seen.startup_s, 1, "s"),
            _format(seen.ttft_p50_s, 1, "s"),
            _format(rate, 1, ""),
        ]
        lines.append(f"| {'' if lines else machine.name} | {file.label} | {' | '.join(figures)} |")
    return lines or [f"| {machine.name} | none keeps the limits | | | | |"]


def _list_server_choices(catalog: Catalog, server: AssumedServer) -> list[str]:
    needs, _ = parse_needs(read_template("desk").encode(), "needs.yaml", catalog)
    (demand,) = list_text_demands(needs)
    models, lines = list(select_open_models(demand, catalog).models), list[str]()
    while len(lines) < CHOICES:
        planner = AcceleratorPlanner(needs, catalog, PlanProvenance(), server.to_facts())
        found = planner.plan_pool(demand, models, download=True)
        if found is None or not isinstance(found.load, PooledLoad):
            break
        pool, spec = found.pool, found.load.spec
        models = [model for model in models if model.id != pool.model]
        seen = predict_pool(spec._replace(load=_ask_one(spec.load)))
        rate = seen.tpot_p50_s.divide_amount(1.0, "tokens/s")
        weights = catalog.models[pool.model].parameters * WEIGHT_BITS[pool.quantisation] / 8e9
        first = f"{pool.model} | {pool.quantisation} | {pool.accelerator_count} | {_round(weights)} GB"
        figures = f"{_round(pool.launch.startup_s)} s | {_format(seen.ttft_p50_s, 1, 's')} | {_format(rate, 1, '')}"
        lines.append(f"| {'' if lines else server.name} | {first} | {figures} |")
    return lines


def _ask_one(load: LoadSpec) -> LoadSpec:
    """Return the load of one request at a time."""
    prompt, answer = TokenLength(mean=PROMPT, p95=PROMPT), TokenLength(mean=ANSWER, p95=ANSWER)
    return replace(load, requests_per_second=0.001, concurrency=1, input_tokens=prompt, output_tokens=answer)


def _format(estimate: Estimate, unit: float, name: str) -> str:
    value, low, high = (_round(one / unit) for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high}) {name}".strip()


def _round(figure: float) -> str:
    """Two digits, never as a power of ten."""
    return f"{float(f'{figure:.2g}'):,g}"

"""The bases of a serving prediction: definition, formula and facts of each number."""

from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency
from archwright.contract.evidence import Basis, BasisKind
from archwright.contract.plan import LoadSpec
from archwright.sizing.hardware.roofline import Hardware
from archwright.sizing.hardware.uncertainty import basis_kind, name_stratum
from archwright.sizing.model.engine_memory import EngineMemory


class BasisIds(NamedTuple):
    ttft: str
    tpot: str
    tokens_per_s: str
    memory: str
    startup: str
    disk: str


def build_basis_ids(workload: str) -> BasisIds:
    return BasisIds(*(f"{workload}.serving.{field}" for field in BasisIds._fields))


def build_bases(load: LoadSpec, efficiency: Efficiency, hardware: Hardware, memory: EngineMemory) -> tuple[Basis, ...]:
    """Return one basis per kind of number, in the order of BasisIds."""
    peak = f"peak {load.requests_per_second:g} requests/s for {load.peak_s:g} s, " if load.requests_per_second else ""
    traffic = f"{peak}closed loop of {load.concurrency} for {load.closed_s:.3g} s, seed {load.seed}"
    compute, bandwidth = hardware.compute_flops_per_s, hardware.bandwidth_bytes_per_s
    rates = (
        f"{hardware.name}: {compute.value / 1e9:.0f} GFLOP/s "
        f"[{compute.low / 1e9:.0f}, {compute.high / 1e9:.0f}], {bandwidth.value / 1e9:.1f} GB/s "
        f"[{bandwidth.low / 1e9:.1f}, {bandwidth.high / 1e9:.1f}]"
    )
    row = efficiency
    prompts, answers, batched, memory_side = (
        f"{share:.3g}"
        for share in (
            row.prefill_share_of_matmul,
            row.decode_share_of_matmul,
            row.decode_share_of_matmul_batched,
            row.decode_share_of_bandwidth,
        )
    )
    shares = (
        f"shares of the matrix rate: prompts {prompts}, answers {answers}, {batched} from {row.batched_from} together; "
        f"of the bandwidth {memory_side}; band 1/{row.low_factor:.3g} to {row.high_factor:.3g}: {row.source} "
        f"({row.as_of or 'undated'}, {row.confidence})"
    )
    step = "step = max(FLOPs / (share x FLOP/s), bytes / (share x bytes/s)), summed by continuous batching"
    simulated, weights = (traffic, rates, shares), f"weights {memory.weights / 1e6:.1f} MB"
    rows: tuple[tuple[BasisKind, str, str, tuple[str, ...]], ...] = (
        (
            "simulated",
            "request received to first content, percentile over the requests of the peak phase",
            f"wait for a slot + prompt read in steps; {step}",
            simulated,
        ),
        (
            "simulated",
            "(last - first token) / (tokens - 1) per finished request, percentile over the peak phase",
            step,
            simulated,
        ),
        (
            "simulated",
            "answer tokens delivered within the closed phase / its length, unfinished requests included",
            step,
            simulated,
        ),
        (
            "formula",
            "sum of proportional set sizes of supervisor, gateway and engines, the largest of the samples",
            "weights + overhead + cache per token x context x slots, the last two x peak share; + own processes",
            (f"{weights}, cache {memory.cache / 1e6:.1f} MB, overhead {memory.overhead / 1e6:.1f} MB", shares),
        ),
        (
            basis_kind(efficiency),
            "`up` called to every process ready; the model file is already there",
            "engines one after another, then the gateway",
            (f"an engine is ready after {efficiency.startup_s:g} s + weights / {_format_load(efficiency)}", shares),
        ),
        (
            "formula",
            "files of this platform in the home: model, store, logs, run files",
            "model file + growth of store and logs in a first day",
            (weights,),
        ),
    )
    stratum = name_stratum(efficiency)
    return tuple(
        Basis(id=name, kind=kind, stratum=stratum, definition=definition, formula=formula, facts=facts)
        for name, (kind, definition, formula, facts) in zip(build_basis_ids(load.workload), rows, strict=True)
    )


def _format_load(row: Efficiency) -> str:
    return "no rate" if row.load_bytes_per_s is None else f"{row.load_bytes_per_s / 1e9:.2g} GB/s"

"""The bases of a serving prediction: definition, formula and facts of each number."""

from typing import NamedTuple

from archwright.catalog.tables.records import Efficiency
from archwright.contract.evidence import Basis, BasisKind
from archwright.contract.plan import LoadSpec
from archwright.simulate.measured_speed import MeasuredSpeed
from archwright.sizing.hardware.roofline import Hardware
from archwright.sizing.hardware.uncertainty import basis_kind, name_stratum
from archwright.sizing.model.engine_memory import EngineMemory


class EngineBasis(NamedTuple):
    """The evidence for an engine's speed; `speed`: None if the speed follows from the row and the hardware."""

    efficiency: Efficiency
    hardware: Hardware
    speed: MeasuredSpeed | None
    correction: float = 1.0

    @property
    def stratum(self) -> str:
        return name_stratum(self.efficiency) if self.speed is None else self.speed.stratum

    @property
    def startup_kind(self) -> BasisKind:
        if self.speed is not None and self.speed.is_of_file:
            return "measured"
        return basis_kind(self.efficiency)

    def describe_startup(self) -> str:
        if self.speed is not None and self.speed.startup_s is not None:
            return f"the engine was ready after {self.speed.startup_s:.2g} s"
        row = self.efficiency
        return f"an engine is ready after {row.startup_s:g} s + weights / {_format_load(row)}"

    def list_speed_facts(self) -> tuple[str, ...]:
        """Return the measured steps, else the rates of the machine and the shares of the row."""
        if self.speed is None:
            rates = _describe_rates(self.hardware), _describe_shares(self.efficiency)
            if self.correction == 1.0:
                return rates
            return (*rates, f"the engine here took {self.correction:.2f} times as long in another format")
        return (f"{self.speed.fact}; band 1/{self.speed.low_factor:.3g} to {self.speed.high_factor:.3g}",)

    def describe_step(self) -> str:
        if self.speed is None:
            return "step = max(FLOPs / (share x FLOP/s), bytes / (share x bytes/s)), summed by continuous batching"
        return "step = FLOPs x measured s/FLOP for its tokens + context x measured s, summed by continuous batching"


class BasisIds(NamedTuple):
    ttft: str
    tpot: str
    tokens_per_s: str
    memory: str
    startup: str
    disk: str


def build_basis_ids(workload: str) -> BasisIds:
    return BasisIds(*(f"{workload}.serving.{field}" for field in BasisIds._fields))


def build_bases(load: LoadSpec, engine: EngineBasis, memory: EngineMemory) -> tuple[Basis, ...]:
    """Return one basis per kind of number, in the order of BasisIds."""
    peak = f"peak {load.requests_per_second:g} requests/s for {load.peak_s:g} s, " if load.requests_per_second else ""
    traffic = f"{peak}closed loop of {load.concurrency} for {load.closed_s:.3g} s, seed {load.seed}"
    step = engine.describe_step()
    shares = _describe_shares(engine.efficiency)
    simulated = (traffic, *engine.list_speed_facts())
    weights = f"weights {memory.weights / 1e6:.1f} MB"
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
            engine.startup_kind,
            "`up` called to every process ready; the model file is already there",
            "engines one after another, then the gateway",
            (engine.describe_startup(), shares),
        ),
        (
            "formula",
            "files of this platform in the home: model, store, logs, run files",
            "model file + growth of store and logs in a first day",
            (weights,),
        ),
    )
    return tuple(
        Basis(id=name, kind=kind, stratum=engine.stratum, definition=definition, formula=formula, facts=facts)
        for name, (kind, definition, formula, facts) in zip(build_basis_ids(load.workload), rows, strict=True)
    )


def _describe_rates(hardware: Hardware) -> str:
    compute = hardware.compute_flops_per_s
    bandwidth = hardware.bandwidth_bytes_per_s
    return (
        f"{hardware.name}: {compute.value / 1e9:.0f} GFLOP/s "
        f"[{compute.low / 1e9:.0f}, {compute.high / 1e9:.0f}], {bandwidth.value / 1e9:.1f} GB/s "
        f"[{bandwidth.low / 1e9:.1f}, {bandwidth.high / 1e9:.1f}]"
    )


def _describe_shares(row: Efficiency) -> str:
    return (
        f"shares of the matrix rate: prompts {row.prefill_share_of_matmul:.3g}, "
        f"answers {row.decode_share_of_matmul:.3g}, "
        f"{row.decode_share_of_matmul_batched:.3g} from {row.batched_from} together; "
        f"of the bandwidth {row.decode_share_of_bandwidth:.3g}; "
        f"band 1/{row.low_factor:.3g} to {row.high_factor:.3g}: {row.source} "
        f"({row.as_of or 'undated'}, {row.confidence})"
    )


def _format_load(row: Efficiency) -> str:
    return "no rate" if row.load_bytes_per_s is None else f"{row.load_bytes_per_s / 1e9:.2g} GB/s"

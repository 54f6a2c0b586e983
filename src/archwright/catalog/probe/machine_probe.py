"""Measures this machine and stores the result in the home: the measured layer of the catalog.

Rates are single-threaded; plans scale them by an engine's threads. Each rate is the median of its repeats. Its band is
their spread (10th to 90th percentile), at least 10 % each way, since other tenants disturb a shared machine.
"""

import importlib.util
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from archwright.catalog.probe import host_resources
from archwright.catalog.probe.engine_report import read_engine_report
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.yaml_documents import read_engines
from archwright.contract.contention import Contention
from archwright.contract.engine_measurement import EngineReport
from archwright.contract.estimate import Estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record, replace
from archwright.errors import CatalogError, missing_extra
from archwright.home import Home, write_json
from archwright.journal import report_step
from archwright.python_process import build_module_command
from archwright.settings import child_environment

WORKER = "archwright.catalog.probe.probe_worker"
WORKER_DEADLINE_S = 30.0
PROBE_LASTS_S = 7 * 86_400.0
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Variables that make the numeric library use another processor's kernels: the probe measures the machine's own.
FOREIGN_KERNEL = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
LEAST_SPREAD = 1.1
BLOCK = 1 << 20
DISK_BYTES = 64 * BLOCK
DISK_REPEATS = 3
DISK_BUDGET_S = 0.6


class ProbeSamples(Record):
    """One rate per repeat; `quiet_...`: by processor time; `engine`: the report of the installed engine.

    `frequency_hz`: of the processors while all of them work; None if the system states none.
    """

    bandwidth: tuple[float, ...]
    matmul: tuple[float, ...]
    quiet_bandwidth: tuple[float, ...] = ()
    quiet_matmul: tuple[float, ...] = ()
    frequency_hz: float | None = None
    engine: EngineReport | None = None


def cached_machine(home: Home) -> MachineFacts | None:
    """Return the measured layer of `home`, None if it is missing, unreadable or of an older version."""
    try:
        return msgspec.json.decode(home.machine_facts.read_bytes(), type=MachineFacts)
    except (OSError, ValueError):
        return None


def read_machine(home: Home, model_file: Path | None) -> MachineFacts:
    """Return the probe of `home`; probe with `model_file` if there is none, or if it is older than a week.

    The engine may have been updated since the probe, so its report is always of now. Raises as `probe_machine`.
    """
    machine = cached_machine(home)
    if machine is not None and time.time() - machine.probed_at < PROBE_LASTS_S:
        return replace(machine, engine=read_engine_report())
    report_step("probing this machine")
    return probe_machine(home, model_file, now=time.time)


def probe_machine(
    home: Home,
    model_file: Path | None,
    *,
    now: Callable[[], float],
    measure: Callable[[Path | None], ProbeSamples] | None = None,
) -> MachineFacts:
    """Probe for 2 s, write `home.machine_facts`. Raises MissingError AW-GET-01, CatalogError AW-CAT-06."""
    samples, contention = _measure_with_load(measure or run_worker, model_file)
    folder = home.folder("measured")
    facts = MachineFacts(
        cores_usable=host_resources.usable_cores(),
        memory_bytes=host_resources.usable_memory(),
        memory_bandwidth_bytes_per_s=median_with_spread(samples.bandwidth, "bytes/s"),
        matmul_flops_per_s=median_with_spread(samples.matmul, "FLOP/s"),
        disk_write_bytes_per_s=median_with_spread(measure_disk_writes(folder), "bytes/s"),
        disk_free_bytes=shutil.disk_usage(folder).free,
        isa=host_resources.instruction_set(),
        gpus=host_resources.list_accelerators(parsers.read_device_tools(DATA)),
        probed_at=now(),
        busy_share=contention.other_share,
        quiet_bandwidth_bytes_per_s=median_with_spread(samples.quiet_bandwidth or samples.bandwidth, "bytes/s"),
        quiet_matmul_flops_per_s=median_with_spread(samples.quiet_matmul or samples.matmul, "FLOP/s"),
        programs=tuple(row.id for row in read_engines(DATA) if row.program and shutil.which(row.program)),
        steal_share=contention.steal_share,
        frequency_hz=contention.frequency_hz,
        engine=samples.engine,
        is_virtual=host_resources.is_virtual_machine(),
    )
    write_json(home.machine_facts, facts)
    return facts


def _measure_with_load(
    measure: Callable[[Path | None], ProbeSamples], model_file: Path | None
) -> tuple[ProbeSamples, Contention]:
    """Run the measurement; return its samples and the contention of the machine meanwhile."""
    ticks_before = host_resources.read_cpu_ticks()
    own_before_s = sum(os.times()[:4])
    samples = measure(model_file)
    own_cpu_s = sum(os.times()[:4]) - own_before_s
    ticks_after = host_resources.read_cpu_ticks()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    contention = Contention(
        other_share=host_resources.compute_busy_share(ticks_before, ticks_after, own_cpu_s, ticks_per_s),
        steal_share=host_resources.compute_steal_share(ticks_before, ticks_after),
        frequency_hz=samples.frequency_hz,
    )
    return samples, contention


def median_with_spread(rates: Sequence[float], unit: str) -> Estimate:
    """Return the median; its band is the spread of the repeats, at least 10 % each way."""
    middle = statistics.median(rates)
    ordered = sorted(rates)
    tail = len(ordered) // 10
    low, high = ordered[tail], ordered[-1 - tail]
    return Estimate(value=middle, low=min(low, middle / LEAST_SPREAD), high=max(high, middle * LEAST_SPREAD), unit=unit)


def run_worker(model_file: Path | None, *, module: str = WORKER) -> ProbeSamples:
    """Measure bandwidth and matrix rate in a child process with one thread and the machine's kernels."""
    if importlib.util.find_spec("numpy") is None:
        raise missing_extra("local", "numpy", "the probe of this machine")
    arguments = [] if model_file is None else [str(model_file.absolute())]
    command = build_module_command(module, *arguments)
    environment = child_environment(ONE_THREAD, without=FOREIGN_KERNEL)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=WORKER_DEADLINE_S, check=True, cwd="/"
        )
        samples = msgspec.json.decode(done.stdout, type=ProbeSamples)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise _probe_error(f"{last[0]} (exit status {error.returncode})") from error
    except (subprocess.TimeoutExpired, msgspec.DecodeError, OSError) as error:
        raise _probe_error(str(error)) from error
    return replace(samples, engine=read_engine_report())


def _probe_error(reason: str) -> CatalogError:
    hint = "run it again when the machine is less busy; if the error persists, reinstall numpy"
    return CatalogError("AW-CAT-06", f"the probe of this machine failed: {reason}", hint=hint)


def measure_disk_writes(folder: Path, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Measure bytes/s of writing 64 MB and waiting for the disk, up to three times in 0.6 s."""
    block = os.urandom(BLOCK)
    path = folder / f"probe-{os.getpid()}.tmp"
    rates: list[float] = []
    spent = 0.0
    try:
        while len(rates) < DISK_REPEATS and spent < DISK_BUDGET_S:
            start = clock()
            with path.open("wb", buffering=0) as file:
                for _ in range(DISK_BYTES // BLOCK):
                    file.write(block)
                os.fsync(file.fileno())
            took = max(clock() - start, 1e-9)
            rates.append(DISK_BYTES / took)
            spent += took
    finally:
        path.unlink(missing_ok=True)
    return rates

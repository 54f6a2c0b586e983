"""Capacity of speech recognition and document parsing, from a rate that was published for one device.

  rate = published rate x what a served model reaches of it x how much faster the device is than the published one
  seconds of one file on an idle device = audio seconds / (rate x share of the rate of a file alone)
The ratios of memory bandwidth and 16-bit rate bound the gain of another device: decoding is bound by memory, encoding
by arithmetic. Small models also wait for the host: the one parser with two published devices keeps 0.80 of its rate
where the ratios are 0.49 and 0.53. Thus the other end is a ratio to the power HOST_BOUND. Machines without
accelerators are not sized.
"""

import math

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.catalog.tables.specialist_tables import PublishedRateModel
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO
from archwright.contract.record import replace
from archwright.sizing.hardware.device_rates import busy_power_w, has_devices, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.model.numeric_precision import matmul_rate
from archwright.sizing.workloads.embedding import BULK_UTILISATION, HOUR_S, NORMAL_95, fits_machine
from archwright.sizing.workloads.queueing import ServiceLimit, ServiceTimes, find_capacity
from archwright.sizing.workloads.vision import build_steady_capacity

SPEECH_ENGINE = "speech-to-text"
SPEECH_SERVED, PARSING_SERVED, ALONE, LONG = "speech.served", "parsing.served", "speech.alone", "speech.long"
# Powers of the ratio of two devices' rates: if the host bounds the work, and in the middle.
HOST_BOUND, USUAL_POWER = 0.3, 0.65


def device_gain(device: Accelerator, reference: Accelerator) -> Estimate:
    """Return how much faster than `reference` a device is; exactly 1 for the reference itself."""
    memory = device.memory_bandwidth_bytes_per_s / reference.memory_bandwidth_bytes_per_s
    compute = matmul_rate(device, "bf16") / matmul_rate(reference, "bf16")
    ends = [ratio**power for ratio in (memory, compute) for power in (1.0, HOST_BOUND)]
    return Estimate(value=math.sqrt(memory * compute) ** USUAL_POWER, low=min(ends), high=max(ends), unit="")


def estimate_device_rate(device: Accelerator, model: PublishedRateModel, served: str, catalog: Catalog) -> Estimate:
    """Return seconds of audio, or pages, per second of one device with large batches; `served`: a work rate."""
    value, low, high = model.rate_per_s, model.rate_low_per_s, model.rate_high_per_s
    published = model.band(value, "1/s") if low == high else Estimate(value=value, low=low, high=high, unit="1/s")
    gain = device_gain(device, catalog.accelerator(model.reference))
    return multiply_estimates([published, read_work_rate(catalog, served), gain], "1/s")


def size_speech_serving(
    machine: Machine, model: PublishedRateModel, workload: str, audio_s: float, slo: SLO, catalog: Catalog
) -> SteadyCapacity | None:
    """Size one machine for files of `audio_s` seconds on average; None without devices that hold the model."""
    device = machine.accelerator
    if device is None or not has_devices(machine) or not fits_machine(machine, model):
        return None
    rate = estimate_device_rate(device, model, SPEECH_SERVED, catalog)
    own = rate.divide_amount(audio_s, "s")
    # A file alone takes own / share; what the others of a batch share with it is fixed per batch.
    share = read_work_rate(catalog, ALONE).divide_amount(1.0, "")
    rest = replace(share, value=share.value - 1, low=share.low - 1, high=share.high - 1)
    fixed, ratio = multiply_estimates([own, rest], "s"), read_work_rate(catalog, LONG).value
    times = ServiceTimes(fixed, own, long=ratio, variation=(ratio - 1) ** 2 / NORMAL_95**2)
    most = read_work_rate(catalog, "load.most").value
    limit = ServiceLimit(f"{workload}.latency_p95_s", slo.latency_p95_s, most, slo.certainty)
    found = find_capacity(times, machine.accelerator_count, limit, batches=True)
    quotes = quote_work_rates(catalog, SPEECH_SERVED, ALONE, LONG, "load.most")
    basis = Basis(
        id=f"{workload}.{machine.id}.capacity",
        kind="calibrated",
        stratum=_name_stratum(device, model),
        definition="highest files/s of one machine within the p95 latency limit; latency from arrival to transcript",
        formula="fixed + files x audio seconds / rate, fixed = audio seconds / rate x (1 / alone - 1); queueing.py",
        facts=(*_quote_rates(model, device, rate, "s of audio"), f"{audio_s:,.4g} s of audio a file", *quotes),
    )
    capacity = build_steady_capacity(machine, catalog, found, basis, (model.id, SPEECH_ENGINE))
    hours = found.requests_per_s.value * audio_s
    return capacity._replace(
        assumptions=(*capacity.assumptions, f"{workload}: {hours:,.0f} hours of audio an hour and machine")
    )


def size_parsing_batch(
    machine: Machine, model: PublishedRateModel, workload: str, pages: float, catalog: Catalog
) -> BatchWork | None:
    """Size a run over `pages` pages, shared evenly by any number of machines; None as for speech."""
    device, count = machine.accelerator, machine.accelerator_count
    if device is None or not has_devices(machine) or not fits_machine(machine, model):
        return None
    rate = estimate_device_rate(device, model, PARSING_SERVED, catalog)
    quotes = quote_work_rates(catalog, PARSING_SERVED)
    basis = Basis(
        id=f"{workload}.{machine.id}.work",
        kind="calibrated",
        stratum=_name_stratum(device, model),
        definition="hours of one machine for all pages of a run",
        formula="pages / (rate x devices x utilisation)",
        facts=(*_quote_rates(model, device, rate, "pages"), f"{pages:,.0f} pages", *quotes),
    )
    return BatchWork(
        model=model.id,
        machine_hours=rate.divide_amount(pages / count / BULK_UTILISATION / HOUR_S, "h").scaled(1.0, basis=basis.id),
        least=1,
        most=max(1, int(pages / count)),
        scaling=1.0,
        busy_w=busy_power_w(machine, catalog, accelerated=True),
        bases=(basis,),
        assumptions=("document parsing: pages are rendered beforehand, and a page is as dense as those published",),
    )


def _name_stratum(device: Accelerator, model: PublishedRateModel) -> str:
    if device.id == model.reference:
        return "published on this device"
    return f"published on {model.reference}, scaled to {device.id}"


def _quote_rates(model: PublishedRateModel, device: Accelerator, rate: Estimate, unit: str) -> tuple[str, ...]:
    return (
        f"{model.id}: {model.rate_per_s:g} [{model.rate_low_per_s:g}, {model.rate_high_per_s:g}] {unit} a second on "
        f"{model.reference} ({model.source}, {model.as_of}, {model.confidence})",
        f"{device.id}: {rate.value:,.3g} [{rate.low:,.3g}, {rate.high:,.3g}] a second ({device.source})",
    )

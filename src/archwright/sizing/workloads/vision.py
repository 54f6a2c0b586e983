"""Capacity of image classification, from the model's parameters and the pixels of an image.

  FLOPs per image = parameters x pixels / (224 x 224) x FLOPs per parameter (work rate vision.flops)
  seconds = launch + images x FLOPs / (share x rate) on a device; request + FLOPs / (share x core) on the CPU
FLOPs of a convolution grow with its pixels, so the formula holds for networks that process the whole image. Published
classifiers at 224 x 224 pixels have 320 (ResNet-50), 147 (EfficientNet-B0) and, for transformers and wide networks, up
to 620 FLOPs per parameter (multiply and add count as two). Their range is the band.
"""

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO
from archwright.contract.plan import Parallelism
from archwright.sizing.hardware import device_rates
from archwright.sizing.hardware.device_rates import has_devices, host_cores, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.workloads.queueing import CapacityResult, ServiceLimit, ServiceTimes, find_capacity

PIXELS = 224.0 * 224.0
ENGINE = "onnxruntime"


def image_flops(pixels: float, parameters: float, catalog: Catalog) -> Estimate:
    return read_work_rate(catalog, "vision.flops").scaled(parameters * pixels / PIXELS, unit="FLOP")


def size_image_serving(
    machine: Machine, workload: str, pixels: float, parameters: float, slo: SLO, catalog: Catalog
) -> SteadyCapacity:
    """Size one machine; each device, or each group of cores, classifies independently."""
    flops = image_flops(pixels, parameters, catalog)
    device = has_devices(machine)
    speed, used = device_rates.estimate_flops_rate("vision", machine, catalog)
    own = multiply_estimates([flops, speed.divide_amount(1.0, "s/FLOP")], "s")
    launch = "vision.launch" if device else "request.host"
    servers = machine.accelerator_count if device else host_cores(machine)
    most = read_work_rate(catalog, "load.most").value
    limit = ServiceLimit(f"{workload}.latency_p95_s", slo.latency_p95_s, most, slo.certainty)
    found = find_capacity(ServiceTimes(read_work_rate(catalog, launch), own), servers, limit, batches=device)
    work = (
        f"{parameters / 1e6:,.3g} million parameters, {pixels / 1e6:,.3g} megapixels: "
        f"{flops.value / 1e9:,.3g} GFLOP per image [{flops.low / 1e9:,.3g}, {flops.high / 1e9:,.3g}]"
    )
    accelerator = machine.accelerator
    source = () if accelerator is None else (f"{accelerator.id}: {accelerator.source} ({accelerator.as_of})",)
    basis = Basis(
        id=f"{workload}.{machine.id}.capacity",
        kind="calibrated",
        stratum="published classifiers of other sizes" if device else "measured here, other processors",
        definition="highest images/s of one machine within the p95 latency limit; latency from arrival to response",
        formula="launch + images x parameters x pixels / 50,176 x FLOPs / (share x rate); wait: workloads/queueing.py",
        facts=(work, *quote_work_rates(catalog, "vision.flops", *used, launch, "load.most"), *source),
    )
    return build_steady_capacity(machine, catalog, found, basis, (f"classifier-{parameters / 1e6:g}M", ENGINE))


def build_steady_capacity(
    machine: Machine, catalog: Catalog, found: CapacityResult, basis: Basis, names: tuple[str, str]
) -> SteadyCapacity:
    """Return the capacity of an engine per device, or of one with `found.servers` workers; `names`: model, engine."""
    on_device = has_devices(machine)
    return SteadyCapacity(
        model=names[0],
        requests_per_s=found.requests_per_s.scaled(1.0, basis=basis.id),
        latency_p95_s=found.latency_p95_s.scaled(1.0, basis=basis.id),
        ttft_p95_s=None,
        tpot_p95_s=None,
        engine=names[1],
        quantisation="bf16" if on_device else "fp32",
        engines=machine.accelerator_count if on_device else 1,
        devices=1 if on_device else 0,
        parallelism=Parallelism(),
        slots=found.batch if on_device else found.servers,
        context_tokens=0,
        busy_w=device_rates.busy_power_w(machine, catalog, accelerated=on_device),
        bases=(basis,),
        misses=found.misses,
        assess=found.assess,
        assumptions=(f"utilisation of at most {found.busy:.0%}",),
    )

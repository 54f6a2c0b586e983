"""Local engines (llama.cpp and its relatives, MLX) on one device for one request: graphics cards, Macs, APUs.

Kernels of these engines reach other shares of a device's rates than those of servers. Boosted trees correct the
physics of the serving fit by load, device, model and engine. bench/sizing/local_devices.py writes trees and bands
(catalog/data/fits/local_devices.json).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.sizing.model.architecture import head_parameters
from archwright.sizing.step_time import boosted_trees, step_time_model
from archwright.sizing.step_time.fitted_tables import FittedTable
from archwright.sizing.step_time.residual_features import extract_features
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

TABLE = "local_devices"
METRICS = ("tpot", "ttft")
LOADS = frozenset({step_time_model.BARE, step_time_model.SINGLE})
# Words of an engine's name that tell its kernels; a feature has one bit each.
KERNELS = ("llamafile", "mlx", "ollama", "vulkan", "rocm", "cuda", "metal")
LAPTOP = "laptop"
# Limit of the trees' logarithm: a larger residual means a mislabelled row.
MOST_RESIDUAL = 1.5


# Fitted names by kind: "engine" and "vendor".
FittedNames = Mapping[str, tuple[str, ...]]


class LocalDeployment(NamedTuple):
    """One request on one device; `engine` is the text that names it."""

    model: ModelSpec
    accelerator: Accelerator
    worker: ShardedModel
    device: DeviceSpec
    case: step_time_model.StepTimeInputs
    engine: str


def is_covered(deployment: LocalDeployment, fit: FittedTable) -> bool:
    """Return whether fitted rows have the load, the engine's family and the device's maker."""
    case = deployment.case
    vendor = deployment.accelerator.vendor
    is_fitted = case.engine in fit.seen["engine"] and vendor in fit.seen["vendor"]
    is_single = case.load in LOADS and deployment.worker.layout.total == 1
    return is_fitted and is_single


def list_features(deployment: LocalDeployment, mean_s: float, seen: FittedNames) -> list[float]:
    """Return the features of the trees; their order, and that of the names in `seen`, is part of the fit.

    `mean_s`: the time of the serving fit's physics."""
    worker = deployment.worker
    device = deployment.device
    load = extract_features(deployment.case, worker, device, deployment.engine, seen["engine"])
    engine = deployment.engine.lower()
    kernels = [float(word in engine) for word in KERNELS]
    maker = boosted_trees.find_position(deployment.accelerator.vendor, seen["vendor"])
    laptop = float(LAPTOP in deployment.accelerator.form)
    weights = worker.weight_bytes()
    filled_share = weights / max(device.memory, 1.0)
    rates = [math.log(weights), filled_share, math.log(device.trunk_rate)]
    model = deployment.model
    head_share = head_parameters(model) / model.active_parameters
    physics = [head_share, math.log(mean_s)]
    return [*load, *kernels, maker, laptop, *rates, *physics]


def correct_mean(deployment: LocalDeployment, fit: FittedTable, *, metric: str, mean_s: float) -> float:
    """Return the mean time `mean_s` of `metric` ("tpot" or "ttft") with the trees' correction."""
    if mean_s <= 0:
        return mean_s
    features = list_features(deployment, mean_s, fit.seen)
    residual = boosted_trees.sum_trees(fit.residuals[metric], features)
    limited = min(max(residual, -MOST_RESIDUAL), MOST_RESIDUAL)
    return mean_s * math.exp(limited)

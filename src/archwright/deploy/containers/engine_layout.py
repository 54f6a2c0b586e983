"""The engines of one machine: a container for each replica, with its accelerators and its limits."""

import math

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record
from archwright.deploy.deployment import ENGINE_SHARE, STARTUP_MARGIN, Deployment, PoolDeployment

# A limit ends an engine that exceeds it, so it lies above the upper end of the prediction.
MEMORY_MARGIN = 1.5
SMALLEST_MEMORY_BYTES, SHORTEST_START_S = 2**29, 60


class EngineReplica(Record):
    """A replica of a pool. `devices`: indices of its accelerators. `start_limit_s`: time until a failed probe counts.

    `prediction_ids` are behind its limits.
    """

    name: str
    pool: PoolDeployment
    replica: int
    devices: tuple[int, ...]
    cpu: int
    memory_bytes: int
    start_limit_s: int
    prediction_ids: tuple[str, ...]


def list_engines(deployment: Deployment) -> tuple[EngineReplica, ...]:
    """Return the engines of the main site whose server has an image. If devices are too few, replicas share them."""
    site, first, engines = deployment.main_site, 0, list[EngineReplica]()
    count = max((group.accelerator_count for group in site.machines), default=0)
    for pool in site.pools:
        cpu, memory_bytes = _share_machine(deployment, pool)
        memory, start = (_find_worst(deployment, pool, one) for one in ("peak_memory_bytes.max", "startup_s.last"))
        limit = math.ceil(MEMORY_MARGIN * memory[1].high) if memory is not None else memory_bytes
        start_s = pool.startup_limit_s
        if start is not None and not pool.pool.launch.startup_s:
            start_s = math.ceil(STARTUP_MARGIN * start[1].high)
        for replica in range(pool.pool.replicas if pool.image else 0):
            wanted = range(first, first + (pool.pool.accelerator_count if pool.pool.accelerator else 0))
            first = wanted.stop
            engines.append(
                EngineReplica(
                    name=f"engine-{pool.name}-{replica}",
                    pool=pool,
                    replica=replica,
                    devices=tuple(index % count if count else index for index in wanted),
                    cpu=cpu,
                    memory_bytes=max(SMALLEST_MEMORY_BYTES, limit),
                    start_limit_s=max(SHORTEST_START_S, start_s),
                    prediction_ids=(*pool.prediction_ids, *(one[0] for one in (memory, start) if one is not None)),
                )
            )
    return tuple(engines)


def _share_machine(deployment: Deployment, pool: PoolDeployment) -> tuple[int, int]:
    """Return the cores and the memory that an engine may use without a prediction."""
    machine = deployment.plan.machine
    if pool.pool.placement != "this-machine" or machine is None:
        return pool.cpu, pool.memory_bytes
    return machine.cores_usable, math.floor(machine.memory_bytes * ENGINE_SHARE)


def _find_worst(deployment: Deployment, pool: PoolDeployment, quantity: str) -> tuple[str, Estimate] | None:
    """Return the highest prediction of a quantity for the workloads of a pool. Only the choice has predictions."""
    wanted = {f"{workload}.{quantity}" for workload in pool.pool.workloads} if deployment.is_chosen else set[str]()
    found = [(one.id, one.estimate) for one in deployment.plan.predictions if one.id in wanted]
    return max(found, key=lambda one: one[1].high, default=None)

"""The engines of one machine: a process or container for each replica, with its accelerators and its limits."""

import itertools
import math

from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record
from archwright.deploy.deployment import ENGINE_SHARE, Deployment, PoolDeployment

# A limit ends an engine that exceeds it, so it lies above the upper end of the prediction.
MEMORY_MARGIN = 1.5
SMALLEST_LIMIT_BYTES = 2**29


class EngineReplica(Record):
    """A replica of a pool. `devices`: indices of its accelerators. `prediction_ids`: behind the limit of memory."""

    name: str
    pool: PoolDeployment
    replica: int
    devices: tuple[int, ...]
    cpu: int
    memory_bytes: int
    prediction_ids: tuple[str, ...]


def list_engines(deployment: Deployment) -> tuple[EngineReplica, ...]:
    """Return the engines of the main site whose server has an image. Pools that share accelerators take turns."""
    site, first, engines = deployment.main_site, 0, list[EngineReplica]()
    count = max((group.accelerator_count for group in site.machines), default=0)
    for pool in site.pools:
        if not pool.image:
            continue
        cpu, memory_bytes, ids = _limit_engine(deployment, pool)
        for replica in range(pool.pool.replicas):
            wanted = range(first, first + pool.pool.accelerator_count) if pool.pool.accelerator else range(0)
            first += len(wanted)
            engines.append(
                EngineReplica(
                    name=f"engine-{pool.name}-{replica}",
                    pool=pool,
                    replica=replica,
                    devices=tuple(index % count if count else index for index in wanted),
                    cpu=cpu,
                    memory_bytes=memory_bytes,
                    prediction_ids=tuple(itertools.chain(pool.prediction_ids, ids)),
                )
            )
    return tuple(engines)


def _limit_engine(deployment: Deployment, pool: PoolDeployment) -> tuple[int, int, tuple[str, ...]]:
    """Return cores, bytes of memory and the predictions behind them."""
    machine = deployment.plan.machine
    cpu, memory_bytes = pool.cpu, pool.memory_bytes
    if pool.pool.placement == "this-machine" and machine is not None:
        cpu, memory_bytes = machine.cores_usable, _share_memory(machine)
    wanted = {f"{workload}.peak_memory_bytes.max" for workload in pool.pool.workloads}
    found = [one for one in deployment.plan.predictions if one.id in wanted] if deployment.is_chosen else []
    if found:
        memory_bytes = max(SMALLEST_LIMIT_BYTES, math.ceil(MEMORY_MARGIN * max(one.estimate.high for one in found)))
    return cpu, memory_bytes, tuple(one.id for one in found)


def _share_memory(machine: MachineFacts) -> int:
    return math.floor(machine.memory_bytes * ENGINE_SHARE)

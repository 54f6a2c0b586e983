"""Where a model version would be served: a text model at the workload of its name, over the base the plan has there;
a classifier at an endpoint of its own, which no workload may have taken."""

from __future__ import annotations

import msgspec

from archwright.contract.lineage import ModelVersion
from archwright.contract.plan import Plan, Pool
from archwright.errors import ErrorLocation, PlanFileError
from archwright.home import Home


def read_plan(home: Home) -> Plan | None:
    """The plan this home was last brought up with; None before the first time. Raises PlanFileError AW-FILE-03."""
    try:
        return msgspec.json.decode(home.plan.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlanFileError(
            "AW-FILE-03",
            f"the plan of this home cannot be read: {error}",
            where=ErrorLocation(str(home.plan)),
            hint="run `archwright up` again: it writes this file anew",
        ) from error


def find_pool(plan: Plan | None, model: ModelVersion) -> Pool | None:
    """The first pool of the plan that serves the workload of the model's name."""
    for pool in () if plan is None else plan.pools:
        if model.name in pool.workloads:
            return pool
    return None


def find_misfit(plan: Plan | None, model: ModelVersion) -> str:
    """Why this plan cannot serve the model; empty when it can, or when there is no plan yet."""
    if plan is None:
        return ""
    pool = find_pool(plan, model)
    if model.task != "text-lora":
        taken = f"{model.name} is a workload of the plan, which serves text"
        return "" if pool is None else taken
    workloads = ", ".join(sorted({name for pool in plan.pools for name in pool.workloads})) or "none"
    if pool is None:
        return f"the plan has no workload called {model.name} (its workloads: {workloads})"
    if pool.launch.engine == "external":
        return f"the plan serves {model.name} from {pool.launch.url}, where no adapter of ours can be loaded"
    if pool.artefact is not None and pool.artefact.sha256 != model.base_sha256:
        return f"the plan serves {model.name} with {pool.model}, and this is an adapter for {model.base}"
    return ""

"""Finds the place where a model version is served.

A text model is served at the workload of its name, on the plan's base. A classifier is served at its own endpoint; no
workload may have the same name.
"""

import msgspec

from archwright.contract.lineage import ModelVersion
from archwright.contract.plan import Plan, Pool
from archwright.errors import ErrorLocation, PlanFileError
from archwright.home import Home


def read_plan(home: Home) -> Plan | None:
    """The plan of the last `up` in this home; None before the first. Raises PlanFileError AW-FILE-03."""
    try:
        return msgspec.json.decode(home.plan.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the plan of this home cannot be read: {error}"
        hint = "run `archwright up` again: it rewrites this file"
        raise PlanFileError("AW-FILE-03", message, where=ErrorLocation(str(home.plan)), hint=hint) from error


def find_pool(plan: Plan | None, model: ModelVersion) -> Pool | None:
    """The first pool of the plan that serves the workload of the model's name."""
    pools = () if plan is None else plan.pools
    return next((pool for pool in pools if model.name in pool.workloads), None)


def find_misfit(plan: Plan | None, model: ModelVersion) -> str:
    """The reason why this plan cannot serve the model; empty if it can, or without a plan."""
    if plan is None:
        return ""
    pool = find_pool(plan, model)
    if model.task != "text-lora":
        return "" if pool is None else f"{model.name} is also the name of a workload of the plan, which serves text"
    workloads = ", ".join(sorted({name for pool in plan.pools for name in pool.workloads})) or "none"
    if pool is None:
        return f"the plan has no workload named {model.name} (its workloads: {workloads})"
    if pool.launch.engine == "external":
        return f"the plan serves {model.name} from {pool.launch.url}, and archwright cannot load an adapter there"
    if pool.artefact is not None and pool.artefact.sha256 != model.base_sha256:
        return f"the plan serves {model.name} with {pool.model}, but the adapter is for {model.base}"
    return ""

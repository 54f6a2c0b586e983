"""Where a model version is served.

A text model is served at the workload of its name, over the plan's base; a classifier at its own endpoint, whose name
no workload may have.
"""

from __future__ import annotations

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
        hint = "run `archwright up` again: it writes this file anew"
        raise PlanFileError("AW-FILE-03", message, where=ErrorLocation(str(home.plan)), hint=hint) from error


def find_pool(plan: Plan | None, model: ModelVersion) -> Pool | None:
    """The first pool of the plan that serves the workload of the model's name."""
    pools = () if plan is None else plan.pools
    return next((pool for pool in pools if model.name in pool.workloads), None)


def find_misfit(plan: Plan | None, model: ModelVersion) -> str:
    """Why this plan cannot serve the model; empty if it can or if there is no plan."""
    if plan is None:
        return ""
    pool = find_pool(plan, model)
    if model.task != "text-lora":
        return "" if pool is None else f"{model.name} is a workload of the plan, which serves text"
    workloads = ", ".join(sorted({name for pool in plan.pools for name in pool.workloads})) or "none"
    if pool is None:
        return f"the plan has no workload called {model.name} (its workloads: {workloads})"
    if pool.launch.engine == "external":
        return f"the plan serves {model.name} from {pool.launch.url}, where no adapter of ours can be loaded"
    if pool.artefact is not None and pool.artefact.sha256 != model.base_sha256:
        return f"the plan serves {model.name} with {pool.model}, and this is an adapter for {model.base}"
    return ""

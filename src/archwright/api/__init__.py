"""The public functions, named like the verbs of the shell (`from archwright import api`).

Each module is loaded on first use, because a plan needs no server, and a server no planner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archwright.api import audit, batches, catalog, data, key, models, runs, tenant, user
    from archwright.api.backups import backup, restore
    from archwright.api.bench_and_reconcile import bench, reconcile
    from archwright.api.budget_conformance import conformance
    from archwright.api.config_import import import_litellm
    from archwright.api.drift_check import drift
    from archwright.api.installation import doctor, home, settings
    from archwright.api.lineage_chain import lineage
    from archwright.api.pin_resolution import resolve
    from archwright.api.planning import init, plan
    from archwright.api.platform_lifecycle import ask, down, status, up
    from archwright.api.prediction import (
        accuracy,
        predict_data,
        predict_embedding,
        predict_image,
        predict_inventory,
        predict_serving,
        predict_table,
        predict_training,
    )
    from archwright.api.rendering import diff, render, verify
    from archwright.api.report_document import explain, report
    from archwright.api.serving import serve
    from archwright.api.training import train
    from archwright.api.usage_report import usage

GROUPS = ("audit", "batches", "catalog", "data", "key", "models", "runs", "tenant", "user")
FUNCTIONS_BY_MODULE = {
    "drift_check": ("drift",),
    "installation": ("doctor", "home", "settings"),
    "backups": ("backup", "restore"),
    "bench_and_reconcile": ("bench", "reconcile"),
    "budget_conformance": ("conformance",),
    "config_import": ("import_litellm",),
    "lineage_chain": ("lineage",),
    "pin_resolution": ("resolve",),
    "planning": ("init", "plan"),
    "prediction": (
        "accuracy",
        "predict_data",
        "predict_embedding",
        "predict_image",
        "predict_inventory",
        "predict_serving",
        "predict_table",
        "predict_training",
    ),
    "rendering": ("diff", "render", "verify"),
    "report_document": ("explain", "report"),
    "platform_lifecycle": ("ask", "down", "status", "up"),
    "serving": ("serve",),
    "training": ("train",),
    "usage_report": ("usage",),
}

__all__ = ["audit", "batches", "catalog", "data", "key", "models", "runs", "tenant", "user"]
__all__ += [
    "accuracy",
    "ask",
    "backup",
    "bench",
    "conformance",
    "diff",
    "doctor",
    "down",
    "explain",
    "home",
    "init",
    "lineage",
    "plan",
]
__all__ += ["predict_data", "predict_embedding", "predict_image", "predict_serving", "predict_table"]
__all__ += ["predict_inventory", "predict_training"]
__all__ += ["reconcile", "render", "report", "serve", "settings", "status", "train", "up", "usage"]
__all__ += ["drift", "import_litellm", "resolve", "restore", "verify"]


def __getattr__(name: str) -> Any:
    """Raises AttributeError for a name that is no public function."""
    if name in GROUPS:
        return import_module(f"{__name__}.{name}")
    for module, functions in FUNCTIONS_BY_MODULE.items():
        if name in functions:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

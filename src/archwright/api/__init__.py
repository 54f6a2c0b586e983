"""The public functions: what the shell's verbs do, by the same names (`from archwright import api`)."""

from __future__ import annotations

from archwright.api import audit, catalog, data, key, models, runs, tenant
from archwright.api.inspecting import doctor, settings
from archwright.api.lineage import lineage
from archwright.api.measuring import bench, reconcile
from archwright.api.planning import diff, explain, init, plan
from archwright.api.predicting import accuracy, predict_serving, predict_training
from archwright.api.predicting_work import predict_data, predict_embedding, predict_image, predict_table
from archwright.api.reporting import report
from archwright.api.running import ask, down, status, up
from archwright.api.training import train

__all__ = [
    "accuracy",
    "ask",
    "audit",
    "bench",
    "catalog",
    "data",
    "diff",
    "doctor",
    "down",
    "explain",
    "init",
    "key",
    "lineage",
    "models",
    "plan",
    "predict_data",
    "predict_embedding",
    "predict_image",
    "predict_serving",
    "predict_table",
    "predict_training",
    "reconcile",
    "report",
    "runs",
    "settings",
    "status",
    "tenant",
    "train",
    "up",
]

"""The public functions: what the shell's verbs do, by the same names (`from archwright import api`)."""

from __future__ import annotations

from archwright.api import audit, catalog, key, models, tenant
from archwright.api.inspecting import doctor, settings
from archwright.api.measuring import bench, reconcile
from archwright.api.planning import explain, init, plan
from archwright.api.predicting import accuracy, predict_serving, predict_training
from archwright.api.running import ask, down, status, up

__all__ = [
    "accuracy",
    "ask",
    "audit",
    "bench",
    "catalog",
    "doctor",
    "down",
    "explain",
    "init",
    "key",
    "models",
    "plan",
    "predict_serving",
    "predict_training",
    "reconcile",
    "settings",
    "status",
    "tenant",
    "up",
]

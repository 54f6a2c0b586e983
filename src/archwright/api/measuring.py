"""Promise against reality: `bench`, `reconcile`."""

from __future__ import annotations

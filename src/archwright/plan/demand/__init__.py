"""Demand of the needs: load over the months, models, data residency, proximity."""

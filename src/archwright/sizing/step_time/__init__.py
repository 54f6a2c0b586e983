"""Time of an engine step: work, fitted tables, boosted trees, extrapolation."""

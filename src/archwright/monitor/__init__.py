"""Usage records, metrics, traces, measurements and lineage of the running platform."""

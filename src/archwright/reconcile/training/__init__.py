"""Training runs of this machine: their predictions before the first step, and what was measured after the last."""

"""Training: specs, runs, the loop, checkpoints, tasks, launchers."""

"""Training: memory, FLOPs, parallel strategy, throughput, goodput, predictions."""

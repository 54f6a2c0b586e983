"""Training: memory, arithmetic, parallel strategy, cluster throughput, goodput, predictions."""

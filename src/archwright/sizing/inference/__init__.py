"""Inference on one machine: engines, layouts, closed and open loop, capacity, predictions."""

"""Inference on one machine: engines, their layout, closed and open loop, capacity, predictions."""

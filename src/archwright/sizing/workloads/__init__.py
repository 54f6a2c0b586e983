"""Workloads beside text generation: embedding, vision, tables, data processing; queueing."""

"""Workloads other than text generation: embedding, vision, tables, data processing; queueing."""

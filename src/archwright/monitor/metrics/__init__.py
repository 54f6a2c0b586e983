"""Metrics: record requests, keep observations, expose them to a Prometheus and query one."""

"""Metrics: request recorder, observations, exposition for Prometheus, Prometheus client."""

"""Routing: pools and replicas, attempts with retry and failover, shadow traffic, data classes."""

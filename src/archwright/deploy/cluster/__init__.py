"""Machines, quotas and checks of a cluster, and the sites of clouds that hold it."""

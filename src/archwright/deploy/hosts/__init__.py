"""Machines without a cluster: units of systemd, racks and switches."""

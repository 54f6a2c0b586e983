"""Costs of an option in addition to accelerators: control plane, storage, egress, facilities, staff, operation."""

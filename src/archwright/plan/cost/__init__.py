"""What an option costs beside its accelerators: control plane, storage, egress, facilities, staff, operation."""

"""The gateway and the engines of pools as containers."""

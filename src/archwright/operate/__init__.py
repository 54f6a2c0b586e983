"""Operate the platform on this machine: supervisor, rollout, desired state, status, the owner's key."""

"""Identity, permissions, usage limits, and the audit log of every decision."""

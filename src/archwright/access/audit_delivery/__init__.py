"""Delivery of audit records and checkpoints to places outside the home, and comparison of the log with them."""

"""Checks of a home and of its machine for `doctor --deep`: they read, and change nothing."""

"""Measures the embedded engine of this machine, so that later predictions rest on its own steps."""

"""Refreshes the catalog from public sources: read, check plausibility, merge, report the difference."""

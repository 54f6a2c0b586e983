"""The data lake: versioned tables, ingest, refine."""

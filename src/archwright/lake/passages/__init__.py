"""Passages of texts: splitting, vectors, terms."""

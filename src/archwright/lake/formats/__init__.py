"""Readers of files: rows with their numbers, kinds of columns."""

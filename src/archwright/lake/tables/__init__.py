"""Versioned tables: data files, versions, locks, rejected rows."""

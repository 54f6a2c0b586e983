"""Finders of personal data in texts."""

"""Requests: validate a body, resolve its model, bound its input."""

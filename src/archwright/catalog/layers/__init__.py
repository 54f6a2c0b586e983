"""Layers of the catalog: packaged tables, user overlay, refreshed facts, what is derived, their age."""

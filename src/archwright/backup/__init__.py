"""Backups of a home: encrypted objects by digest, one manifest per backup; their restoration, and a drill of it."""

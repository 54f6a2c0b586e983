"""Signing on `cryptography`; the package is loaded only when a key is used."""

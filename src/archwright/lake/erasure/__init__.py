"""Erasure of a person from everything that a home stores, with a proof and a signed receipt."""

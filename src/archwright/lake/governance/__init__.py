"""Governance of data sets: policies, access, expectations, retention, subject search."""

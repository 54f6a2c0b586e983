"""Budgets, monthly cash flows, the fleets they pay for, Monte Carlo samples, provenance of estimates."""

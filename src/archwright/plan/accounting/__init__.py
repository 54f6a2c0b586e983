"""Money: budgets, monthly cash flows, the fleet they pay for, Monte Carlo samples, provenance of estimates."""

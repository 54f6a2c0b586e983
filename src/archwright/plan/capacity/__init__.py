"""Capacity of machines: candidates, machine count, availability, service levels, quotas, purchase options."""

"""Memory, step time and capacity of one machine: exact counts, then a roofline with calibrated efficiencies."""

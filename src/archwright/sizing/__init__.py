"""How much memory, how long a step, how many machines: exact arithmetic first, then a roofline with stated shares."""

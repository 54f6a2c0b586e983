"""What the needs ask for: load over the months, models, data residency, proximity, queue timeouts."""

"""Evidence of a plan: predictions, controls, residency evidence, settings of the gateway."""

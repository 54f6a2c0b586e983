"""What a plan can be held to: predictions, controls, residency evidence, the settings of its gateway."""

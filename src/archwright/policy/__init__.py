"""Pure rules that the gateway applies and the simulation predicts with."""

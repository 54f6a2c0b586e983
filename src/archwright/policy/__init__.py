"""Pure rules shared by both wings: what the simulation decides with is what the gateway decides with."""

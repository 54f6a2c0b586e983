"""Network, storage and vector index of a platform."""

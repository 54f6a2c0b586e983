"""Infrastructure around machines: network, storage, vector index."""

"""HTTP/1.1: listener, connections, exchanges, limits, error responses."""

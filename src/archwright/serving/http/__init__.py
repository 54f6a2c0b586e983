"""HTTP/1.1: listener, connections, requests, responses, client limits, error responses."""

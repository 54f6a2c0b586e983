"""The HTTP client: connection pool, streaming responses, server-sent events."""

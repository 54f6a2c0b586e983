"""HTTP client for engines: connection pool, streaming responses, server-sent events."""

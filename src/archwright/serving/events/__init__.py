"""Events of an engine: decode replies and streams, time them, write them in the format of the client."""

"""Engine events: decode replies and streams, time them, write them in the client's format."""

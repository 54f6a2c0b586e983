"""What the running platform tells: exposition for a Prometheus, the embedded ring, kept measurements."""

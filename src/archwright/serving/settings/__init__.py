"""The configuration of the gateway and the secrets of its engines."""

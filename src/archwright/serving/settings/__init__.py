"""Configuration of the gateway and keys of its engines."""

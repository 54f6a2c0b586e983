"""The Anthropic Messages interface: its schema and the translation of its requests."""

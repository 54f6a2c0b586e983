"""The Anthropic Messages interface: request schema and translation to chats."""

"""The Responses interface: request schema and translation to chats."""

"""Shared by every test: sockets are off unless a test asks (`enable_socket`); Unix sockets are local and stay on."""

"""Parses untrusted documents (HTML, PDF, office, images) in a sandboxed child process."""

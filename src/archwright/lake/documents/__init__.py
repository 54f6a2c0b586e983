"""Parses documents of strangers (HTML, PDF, office, images) in a child process without rights."""

"""Admit a request: authorisation, reservation and settlement of its cost, the response cache."""

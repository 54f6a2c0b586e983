"""needs.yaml to Needs: bytes -> tree with lines -> types -> rules.

Errors name file, line and field.
"""

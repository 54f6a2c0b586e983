"""From needs.yaml to Needs: bytes -> tree with lines -> types -> rules. Every refusal names file, line and field."""

"""The tables of facts: CSV and YAML files to typed records, each with source, date and confidence."""

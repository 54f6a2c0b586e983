"""The steps of recipes."""

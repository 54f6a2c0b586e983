"""Steps of recipes that look at the texts of one row at a time."""

"""Facts as rows: what accelerators, machines, models, prices and rules are, each with source, date and confidence."""

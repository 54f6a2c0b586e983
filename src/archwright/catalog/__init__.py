"""Facts as rows: accelerators, machines, models, prices and rules with source, date and confidence."""

"""TODO src/archwright/operate."""

"""Integer program that selects machines: columns and limits, pruning, solver."""

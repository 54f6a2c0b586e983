"""The integer program that selects machines: its columns and limits, pruning, the solver."""

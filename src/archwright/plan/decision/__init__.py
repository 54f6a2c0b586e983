"""Choose among the options: selection, comparison, sensitivity, return on investment."""

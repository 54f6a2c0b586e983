"""From needs and facts to a decision: options, their prices and predictions, and the reason for the choice."""

"""From needs and facts to a decision: options, their price, what they promise, and why one was chosen."""

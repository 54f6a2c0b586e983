"""Who may do what, and the record of every decision: identity, permissions, audit."""

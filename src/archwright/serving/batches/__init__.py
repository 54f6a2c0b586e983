"""Files and batches: many requests in one file, answered with the slots that interactive requests leave free."""

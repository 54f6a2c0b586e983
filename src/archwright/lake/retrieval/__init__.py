"""Search: a vector and keyword index per data set version."""

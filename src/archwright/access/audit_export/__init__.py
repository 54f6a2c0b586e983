"""Export of the audit log to a file in a format of other programs, and the verifier of such a file."""

"""Was each prediction inside its interval? Drive the planned load (bench), measure it, and judge (compare)."""

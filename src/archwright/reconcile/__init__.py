"""Was each prediction inside its band? Drive the planned load (bench), read what it did (measure), judge (compare)."""

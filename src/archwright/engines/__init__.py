"""Model engines: the files they load, the processes they run in, and how callers reach them."""

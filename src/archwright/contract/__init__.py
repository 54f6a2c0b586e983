"""The types both wings speak. Read this room first: no IO, no behaviour beyond arithmetic on its own records."""

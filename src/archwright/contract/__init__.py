"""Records shared by both wings: no IO, no behaviour beyond arithmetic on their fields. Read this first."""

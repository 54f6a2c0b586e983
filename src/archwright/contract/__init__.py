"""Records shared by both wings: no IO, no behaviour beyond arithmetic on their fields. Read them first."""

"""Write-ahead log (WAL) of usage and audit records.

Segments on disk, their owner, their compaction into the store.
"""

"""Write-ahead log (WAL) of usage and audit records: segments on disk, their owner, compaction into the store."""

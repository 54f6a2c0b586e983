"""The write-ahead log of usage and audit records: segments on disk, their owner, compaction into the store."""

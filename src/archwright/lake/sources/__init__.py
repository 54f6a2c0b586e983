"""Sources outside the file system: objects of S3, rows of SQL databases, copied into files that the readers read."""

"""Parts of every bundle: template documents, files, and pinned components."""

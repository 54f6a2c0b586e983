"""The life of a model: registry, export, evaluation and gates, promotion and rollback."""

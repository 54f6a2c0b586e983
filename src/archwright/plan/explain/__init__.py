"""Explain a plan: glossary, formatting, differences between plans, what-if summaries."""

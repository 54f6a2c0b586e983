"""Do the budgets of an OpenAI-compatible gateway hold? Everything is measured from outside."""

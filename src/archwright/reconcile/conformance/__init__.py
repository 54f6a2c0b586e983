"""Do the budgets of an OpenAI-compatible gateway hold? Everything is measured from outside.

Design: this folder is also the distribution `gateway-conformance` (packaging/gateway-conformance). So it imports the
standard library and itself only, by relative imports: the folder has another name there.
"""

__version__ = "0.1.0"

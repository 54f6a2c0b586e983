"""archwright: plans AI infrastructure, runs it, and measures whether every promise held.

The public functions are in `archwright.api` (`from archwright import api`), which mirrors the command line verb by
verb. This module stays empty: importing it costs nothing.
"""

__version__ = "0.1.0"

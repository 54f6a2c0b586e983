"""archwright: plan AI infrastructure, run it, and compare its predictions with measurements.

The public functions are in `archwright.api` (`from archwright import api`), which mirrors the command line verb by
verb. This module stays empty, so importing it is fast.
"""

__version__ = "0.1.0"

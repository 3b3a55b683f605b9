"""Losses, metrics, statistics and training loops for top-k classification.

Import the sub-module that you need (``from paperlib import losses``): this package imports none by itself,
so that reading records or drawing figures never loads torch.
"""

__version__ = "0.1.0"

"""The error that weights raise."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights that cannot be had, read, or put into the model. The message names the file or URL and the way out."""

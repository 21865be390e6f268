"""The error that weights raise."""

from __future__ import annotations

from data.errors import InputError


class WeightsError(InputError):
    """Weights that cannot be had, read, or put into the model. The message names the file or URL and the way out."""

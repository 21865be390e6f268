"""The errors that weights and teachers raise."""

from __future__ import annotations

from data.errors import InputError


class WeightsError(InputError):
    """Weights that cannot be had, read, or put into the model. The message names the file or URL and the way out."""


class TeacherError(InputError):
    """A tower that cannot be had or inherited. The message says why."""

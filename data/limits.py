"""How much a user can ask for: a slip of the keyboard is refused at once, before it fills a memory or a night."""

from __future__ import annotations

from data.errors import InputError, shorten

# What no model has and no machine gets through.
MAX_TOKENS = 2**14  # that an encoder looks with
MAX_SIDE = 2**14  # of an image, pixels
MAX_WIDTH = 2**16  # of a layer
MAX_DEPTH = 1000  # layers
MAX_LENGTH = 2**24  # tokens of a text
MAX_STEPS = 10**9
MAX_RATE = 1000  # a learning rate
MAX_SAMPLES = 10**8  # generated ones, or files; as many as can be shuffled in memory


def check_range(field: str, value: float | None, least: float, most: float) -> None:
    """Raise InputError, naming the field, unless a number is one from ``least`` to ``most``; None is no number."""
    if value is not None and not least <= value <= most:
        raise InputError(f"{field}={shorten(str(value), 40)}: choose at least {least:,} and at most {most:,}")

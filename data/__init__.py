"""Pictures, conversations and generated scenes."""

from data.errors import InputError

__all__ = ["InputError"]

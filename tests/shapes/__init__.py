"""A small model of generated shapes, and images to ask it about: what tests chat with."""

from __future__ import annotations

from mllm.commands.demo import EXAMPLES
from mllm.loading import EMBEDDED as MODEL

__all__ = ["EXAMPLES", "MODEL"]

"""What a server lets a request have; more is refused before it costs anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all that are open at once.

    Attributes:
        batch: answers that are decoded together.
        queue: requests that may wait behind those.
        seconds: of one request, from its first byte to its last.
        body: bytes of a request, images included.
        images: of one request.
        pixels: of one image, as its header says.
        side: the largest ``image_size`` that may be asked for.
        tokens: of one answer; the default where a request names no number.
        prompt: tokens of a conversation; what the language model was built for, if that is less.
        choices: answers to one request.
        cache: bytes of keys and values of finished answers, kept for the turns that follow.
    """

    batch: int = 16
    queue: int = 64
    seconds: float = 120.0
    body: int = 32 * 2**20
    images: int = 16
    pixels: int = 25_000_000
    side: int = 1024
    tokens: int = 512
    prompt: int = 2**15
    choices: int = 8
    cache: int = 2**29

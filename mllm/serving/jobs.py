"""What callers and the engine hand to each other: requests that are prepared, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllm.serving.memory import SeenImage
from mllm.serving.sampling import Sampling


@dataclass(frozen=True)
class Image:
    """An image of a request: its bytes, and how it is looked at."""

    content: bytes
    open: Callable[[bytes], Any]
    num_tokens: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Delta:
    """What a token adds to one of a request's answers; ``reason`` once that ends: stop or length."""

    choice: int
    text: str = ""
    logprob: dict[str, Any] | None = None
    reason: str | None = None


@dataclass(eq=False)
class Job:
    """A request that is prepared.

    Attributes:
        tokens: (T,), the prompt, with the placeholder where images stand.
        images: in their order.
        change: applied to the text of answers, such as places of the view to those of the image.
        emit: is called in another thread with lists of `Delta`, or an exception, which ends the request.
        cancelled: set by whoever no longer wants an answer.
        cached: how many tokens of the prompt needed not be read again.
    """

    tokens: list[int]
    images: list[SeenImage]
    max_tokens: int
    emit: Callable[[list[Delta] | Exception], None]
    sampling: Sampling = field(default_factory=Sampling)
    choices: int = 1
    stops: Sequence[str] = ()
    logprobs: int | None = None
    change: Callable[[str], str] = str
    cancelled: bool = False
    cached: int = 0
    began: float = field(default_factory=time.monotonic)
    first: float | None = None

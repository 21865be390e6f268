"""The words of the scenes, and the frozen random streams that draw them.

Python promises only ``random.Random.random()`` to stay the same for ever, so every draw here is made from it alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "large")
SPLITS = ("train", "validation", "test")
TEXTURES = ("noise", "gradient", "stripes", "checks", "plain")

WORDS = ("SUN", "CAT", "DOG", "BUS", "KEY", "MAP", "HAT", "CUP", "BOX", "ZOO", "JAM", "FIR")
NUMBERS = tuple(str(number) for number in range(1, 10))
TEXTS = WORDS + NUMBERS

RGB = {
    "red": (214, 36, 40),
    "green": (36, 158, 58),
    "blue": (36, 72, 214),
    "yellow": (242, 218, 44),
    "purple": (142, 52, 176),
    "orange": (242, 132, 24),
    "white": (244, 244, 244),
    "black": (18, 18, 18),
}

COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six")


def count_word(count: int) -> str:
    """``3`` -> ``"three"``; digits from seven on."""
    return COUNT_WORDS[count] if count < len(COUNT_WORDS) else str(count)


def plural(noun: str) -> str:
    """``"circle"`` -> ``"circles"``, ``"cross"`` -> ``"crosses"``."""
    return noun + ("es" if noun.endswith("s") else "s")


def with_article(phrase: str) -> str:
    """``"orange ring"`` -> ``"an orange ring"``."""
    return ("an " if phrase[0] in "aeio" else "a ") + phrase


def text_noun(text: str) -> str:
    """``"SUN"`` -> ``"word"``, ``"7"`` -> ``"number"``."""
    return "number" if text.isdigit() else "word"


def listing(phrases: Sequence[str]) -> str:
    """``["a", "b", "c"]`` -> ``"a, b and c"``."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def stream(*key: object) -> random.Random:
    """A random stream that depends on nothing but ``key`` (strings and integers), on every machine."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "little"))


def below(rng: random.Random, bound: int) -> int:
    """A whole number in ``[0, bound)``."""
    return int(rng.random() * bound)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of ``options``, each equally likely."""
    return options[int(rng.random() * len(options))]


def pick_weighted(rng: random.Random, options: Sequence[T], weights: Sequence[float]) -> T:
    """One of ``options``, as likely as its weight."""
    left = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """``items`` in random order (Fisher and Yates)."""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        result[last], result[other] = result[other], result[last]
    return result


def between(rng: random.Random, low: float, high: float) -> float:
    """A number in ``[low, high)``."""
    return low + (high - low) * rng.random()

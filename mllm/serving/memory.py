"""What is kept between requests: what images became, and the keys and values of what was said."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from torch import Tensor

KEPT_IMAGES = 256
KEPT_PREFIXES = 64
SHORTEST_PREFIX = 8  # tokens that are worth being joined to

Layers = list[tuple[Tensor, Tensor]]  # keys and values (1, H, L, D) of each layer


@dataclass(eq=False)
class SeenImage:
    """An image as the model reads it.

    Attributes:
        key: a digest of the image and of how it is looked at.
        size: its width and height.
        text: what stands for it in a prompt.
        inputs: what the encoder takes, until it has.
        features: (M, E), once it is encoded.
    """

    key: bytes
    size: tuple[int, int]
    text: str
    inputs: dict[str, Tensor] | None = None
    features: Tensor | None = None

    @property
    def number(self) -> int:
        """A number below zero, which no token has and no other image: it stands for the image in a `Prefix`."""
        return -1 - int.from_bytes(self.key[:7], "big")


class ImageMemory:
    """Keeps the images that were encoded last, and knows all that somebody holds. Several threads may use it."""

    def __init__(self) -> None:
        self.known: WeakValueDictionary[bytes, SeenImage] = WeakValueDictionary()
        self.kept: OrderedDict[bytes, SeenImage] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: bytes, read: Callable[[], SeenImage]) -> SeenImage:
        """Returns the image with a key, read if it is new."""
        with self.lock:
            image = self.known.get(key)
        image = image or read()  # two threads may read the same one: the first counts
        with self.lock:
            return self.known.setdefault(key, image)

    def keep(self, image: SeenImage) -> None:
        """Keeps an image that is encoded, and forgets the one that was used longest ago."""
        with self.lock:
            self.kept[image.key] = image
            self.kept.move_to_end(image.key)
            while len(self.kept) > KEPT_IMAGES:
                self.kept.popitem(last=False)


@dataclass(eq=False)
class Prefix:
    """Keys and values of a conversation, with its tokens; image tokens are numbers that tell one image from another."""

    tokens: np.ndarray
    layers: Layers

    def __post_init__(self) -> None:
        self.head = self.tokens[:SHORTEST_PREFIX].tobytes()

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(each.nbytes for layer in self.layers for each in layer)

    def shared(self, tokens: np.ndarray) -> int:
        """Counts the tokens that two conversations have in common from their beginning."""
        most = min(len(self.tokens), len(tokens))
        differ = np.flatnonzero(self.tokens[:most] != tokens[:most])
        return int(differ[0]) if len(differ) else most


class PrefixMemory:
    """Keeps the conversations that ended last, up to a number of bytes. For one thread."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self.prefixes: list[Prefix] = []  # the last one is the newest

    def match(self, tokens: np.ndarray) -> Layers | None:
        """Returns the cache of the longest known beginning of a prompt, whose last token is not in it."""
        alike = self._alike(tokens)
        shared = [min(prefix.shared(tokens), len(tokens) - 1) for prefix in alike]
        most = max(shared, default=0)
        if most < SHORTEST_PREFIX:
            return None
        found = alike[shared.index(most)]
        self.prefixes.remove(found)
        self.prefixes.append(found)
        return [(keys[..., :most, :], values[..., :most, :]) for keys, values in found.layers]

    def keep(self, prefix: Prefix) -> None:
        """Keeps a conversation instead of its beginning, and forgets the oldest ones."""
        for known in self._alike(prefix.tokens):
            if known.shared(prefix.tokens) == len(known.tokens):
                self._drop(known)
        self.prefixes.append(prefix)
        self.size += prefix.size
        while self.prefixes and (self.size > self.most or len(self.prefixes) > KEPT_PREFIXES):
            self._drop(self.prefixes[0])

    def _alike(self, tokens: np.ndarray) -> list[Prefix]:
        """Those that begin as a conversation does: most do not, and this is quick to see."""
        head = tokens[:SHORTEST_PREFIX].tobytes()
        return [prefix for prefix in self.prefixes if prefix.head == head]

    def _drop(self, prefix: Prefix) -> None:
        self.prefixes.remove(prefix)
        self.size -= prefix.size

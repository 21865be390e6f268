"""What a projector is, and how one is chosen by name.

A new one is a subclass of `Projector` under a name of its own:

    @register_projector("my_projector")
    class MyProjector(Projector):
        def __init__(self, in_features, out_features, roi_embedding=False): ...
        def project(self, features, rois): ...

Its layers' first weights are those that their own `reset_parameters` sets, as torch's layers do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from projector.roi import RoIEmbedding
from projector.whitening import Whitening


class Projector(nn.Module, ABC):
    """Maps (B, N, D) tokens of the encoder to (B, M, E) embeddings of the language model, M = ``num_tokens(N)``.

    Args:
        in_features: D.
        out_features: E.
        roi_embedding: add to each projected token an embedding of where it looked.
    """

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.roi_embedding = RoIEmbedding(out_features) if roi_embedding else None
        self.whitening: Whitening | None = None

    def forward(self, features: Tensor, rois: Tensor | None = None) -> Tensor:
        """Project a batch of pictures.

        Args:
            features: (B, N, D).
            rois: (B, N, 4), x1, y1, x2, y2 in image units; None from an encoder that has none.

        Returns:
            (B, M, E).

        Raises:
            ValueError: RoIs are to be embedded, but there are none.
        """
        if self.whitening is not None:
            features = self.whitening(features)
        embeddings = self.project(features, rois)
        if self.roi_embedding is None:
            return embeddings
        if rois is None:
            raise ValueError("roi_embedding needs the tokens' RoIs, and this encoder has none: set it to false")
        return embeddings + self.roi_embedding(self.merge_rois(rois))

    @abstractmethod
    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, M, E). One that merges tokens may look at their RoIs."""

    def num_tokens(self, count: int) -> int:
        """How many embeddings M come out of ``count`` tokens: as many, unless the projector merges some."""
        return count

    def merge_rois(self, rois: Tensor) -> Tensor:
        """(B, N, 4) -> (B, M, 4), where each projected token looked; one that merges tokens must say it."""
        return rois


PROJECTORS: dict[str, type[Projector]] = {}
P = TypeVar("P", bound=type[Projector])


def register_projector(name: str) -> Callable[[P], P]:
    """Decorator that puts a `Projector` into the registry; ValueError if the name is taken."""

    def register(cls: P) -> P:
        if name in PROJECTORS:
            raise ValueError(f"projector {name!r} exists already: {PROJECTORS[name].__qualname__}")
        PROJECTORS[name] = cls
        return cls

    return register


def build_projector(
    name: str, in_features: int, out_features: int, roi_embedding: bool = False, whitening: bool = False
) -> Projector:
    """The projector registered as ``name``, with a `Whitening` in front if wanted.

    Raises:
        ValueError: there is none of that name; lists those that there are.
    """
    if name not in PROJECTORS:
        raise ValueError(f"unknown projector {name!r}; there are: {', '.join(sorted(PROJECTORS))}")
    projector = PROJECTORS[name](in_features, out_features, roi_embedding)
    if whitening:
        projector.whitening = Whitening(in_features)
    return projector

"""What a projector is, and how one is chosen by name.

A new one is a subclass of `Projector` under a name of its own; its options are keyword-only, typed and have defaults:

    @register_projector("my_projector")
    class MyProjector(Projector):
        def __init__(self, in_features, out_features, roi_embedding=False, *, depth: int = 2): ...
        def project(self, features, rois): ...

Its layers' first weights are those that their own `reset_parameters` sets, as torch's layers do.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from data.registry import Registry
from projector.roi import RoIEmbedding
from projector.whitening import Whitening

NO_ROIS = "roi_embedding needs the tokens' RoIs, and this encoder has none: set it to false"


class Projector(nn.Module, ABC):
    """Maps (B, N, D) tokens of the encoder to (B, M, E) embeddings of the language model, M = ``num_tokens(N)``.

    Args:
        in_features: D.
        out_features: E.
        roi_embedding: add to each projected token an embedding of its RoI.
    """

    def __init__(self, in_features: int, out_features: int, roi_embedding: bool = False):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.roi_embedding = RoIEmbedding(out_features) if roi_embedding else None
        self.whitening: Whitening | None = None

    def forward(self, features: Tensor, rois: Tensor | None = None) -> Tensor:
        """Project a batch of images.

        Args:
            features: (B, N, D).
            rois: (B, N, 4), x1, y1, x2, y2 in image units; None from an encoder that has none.

        Returns:
            (B, M, E).

        Raises:
            ValueError: RoIs are to be embedded, but there are none; tokens that the projector cannot merge.
        """
        if self.whitening is not None:
            features = self.whitening(features)
        embeddings = self.project(features, rois)
        if self.roi_embedding is None:
            return embeddings
        if rois is None:
            raise ValueError(NO_ROIS)
        added: Tensor = self.roi_embedding(self.merge_rois(rois))
        return embeddings + added

    @abstractmethod
    def project(self, features: Tensor, rois: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, M, E). One that merges tokens may use their RoIs."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the projector computes in; through peft's wrapper, that of the copy in use."""
        return next(self.parameters()).dtype

    def num_tokens(self, count: int) -> int:
        """How many embeddings M come out of ``count`` tokens: as many, unless the projector merges some."""
        return count

    def merge_rois(self, rois: Tensor) -> Tensor:
        """(B, N, 4) -> (B, M, 4), the RoI of each projected token; one that merges tokens must say it."""
        return rois


PROJECTORS: Registry[type[Projector]] = Registry(
    "projector",
    {
        "linear": "projector.mlp",
        "mlp2x_gelu": "projector.mlp",
        "roi_mlp": "projector.mlp",
        "resampler": "projector.resampler",
        "pixel_shuffle": "projector.grid",
        "average_pool": "projector.grid",
    },
)
P = TypeVar("P", bound=type[Projector])


def register_projector(name: str) -> Callable[[P], P]:
    """Returns a decorator that puts a `Projector` into the registry. It raises ValueError if the name is taken."""

    def decorator(cls: P) -> P:
        PROJECTORS.register(name, cls)
        return cls

    return decorator


def complete_options(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of the projector registered as ``name``: those given, and the defaults of the others.

    Raises:
        ValueError: an unknown projector, an unknown option, or a value of another type; it names what exists.
    """
    if name not in PROJECTORS:
        raise ValueError(f"unknown projector {name!r}; there are: {', '.join(PROJECTORS)}")
    constructor = PROJECTORS[name].__init__
    parameters = inspect.signature(constructor).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    hints = get_type_hints(constructor)
    for option, value in (given or {}).items():
        if option not in options:
            raise ValueError(
                f"projector {name!r} has no option {option!r}; its options: {', '.join(options) or 'none'}"
            )
        allowed = get_args(hints[option]) or (hints[option],)
        if type(value) not in allowed:  # not isinstance: True is no number
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
            raise ValueError(f"option {option!r} of projector {name!r} must be {kinds}, not {value!r}")
    return {**options, **(given or {})}


def build_projector(
    name: str,
    in_features: int,
    out_features: int,
    roi_embedding: bool = False,
    whitening: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Projector:
    """The projector registered as ``name``, with a `Whitening` in front if wanted.

    Raises:
        ValueError: as `complete_options`, and for options whose values do not fit together.
    """
    chosen = complete_options(name, options)
    projector = PROJECTORS[name](in_features, out_features, roi_embedding, **chosen)
    if whitening:
        projector.whitening = Whitening(in_features)
    return projector

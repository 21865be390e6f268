"""What a projector is, what all of them can do (embed RoIs, whiten), and how one is chosen by name.

A new one is a subclass of `Projector` under a name of its own; its options are keyword-only, typed and have defaults:

    @register_projector("my_projector")
    class MyProjector(Projector):
        def __init__(self, in_features, out_features, roi_embedding=False, *, depth: int = 2): ...
        def project(self, features, rois): ...

Its layers' first weights are those that their own `reset_parameters` sets, as torch's layers do.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from data.registry import Registry

NO_ROIS = "roi_embedding needs the tokens' RoIs, and this encoder has none: set it to false"


def fourier_features(rois: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines of RoI coordinates at several frequencies.

    Args:
        rois: (..., 4), x1, y1, x2, y2 in image units.
        frequencies: F, how many, from π to 128π in equal ratios (those of the encoder's own position injection).

    Returns:
        (..., 8F) in at least float32, whatever the RoIs' dtype; no gradient flows into the RoIs.
    """
    dtype = torch.promote_types(rois.dtype, torch.float32)
    steps = torch.linspace(0, math.log(128), frequencies, dtype=dtype, device=rois.device)
    angles = rois.detach().to(dtype)[..., None] * (math.pi * steps.exp())
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class RoIEmbedding(nn.Linear):
    """(B, M, 4) RoIs -> (B, M, E), added to the projected tokens.

    Behind the projector: in front of it, the tokens' content, which is not normalized, drowns the RoIs for a long
    time (docs/log.md has figures). The weights start at zero, so training starts from the projector without the option
    (their gradient is not zero: the sines are not), and it can be switched on for a projector trained without.
    """

    def __init__(self, width: int, frequencies: int = 32):
        super().__init__(8 * frequencies, width)
        self.frequencies = frequencies

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, rois: Tensor) -> Tensor:
        return super().forward(fourier_features(rois, self.frequencies).to(self.weight.dtype))


class Whitening(nn.Module):
    """(..., D) -> (..., D), without the mean, each principal direction divided by a power of its standard deviation.

    A tower's tokens share a large mean, and a few directions hold nearly all of their variance: in a small CLIP the
    four largest of 128 hold 63%. What lies in the others, shapes for instance, reaches a projector's first layer as a
    whisper, and a language model then takes long to use it, above all to find a token by it (docs/log.md has figures).

    It does not train: `fit` sets it once, and before that it changes nothing.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("matrix", torch.empty(width, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.mean)
        nn.init.eye_(self.matrix)

    @torch.no_grad()
    def fit(self, features: Tensor, strength: float = 0.6) -> None:
        """Measure mean and covariance.

        Args:
            features: (M, D) tokens of a few hundred images, M well above D.
            strength: the power. At 1 all directions count the same; less leaves small ones, noise among them, smaller.

        Raises:
            ValueError: fewer tokens than directions, or tokens that are all alike.
        """
        if len(features) <= features.shape[1]:
            raise ValueError(f"whitening: {len(features)} tokens for {features.shape[1]} directions; show more images")
        features = features.double()
        mean = features.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov((features - mean).T))
        largest = variances[-1]
        if largest <= 0:
            raise ValueError("whitening: all tokens are alike; show other images")
        # the last directions are noise, which would otherwise be blown up
        matrix = directions * variances.clamp(min=1e-3 * largest) ** (-strength / 2) @ directions.T
        scale = ((features - mean) @ matrix).std()
        self.mean.copy_(mean)
        self.matrix.copy_(matrix / scale)

    def forward(self, features: Tensor) -> Tensor:
        # in float32: the mean is far larger than what is left without it
        return ((features.float() - self.mean.float()) @ self.matrix.float()).to(features.dtype)


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

    @classmethod
    def keeps_tokens(cls) -> bool:
        """Whether the nth embedding comes of the nth token alone: so it is where `num_tokens` is not another's."""
        return cls.num_tokens is Projector.num_tokens

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

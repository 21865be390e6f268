"""From the encoder's tokens to the language model's embeddings."""

from projector.grid import AveragePool, PixelShuffle
from projector.mlp import LinearProjector, MlpProjector, RoIMlpProjector
from projector.registry import (
    PROJECTORS,
    Projector,
    RoIEmbedding,
    Whitening,
    build_projector,
    complete_options,
    register_projector,
)
from projector.resampler import Resampler

__all__ = [
    "PROJECTORS",
    "AveragePool",
    "LinearProjector",
    "MlpProjector",
    "PixelShuffle",
    "Projector",
    "Resampler",
    "RoIEmbedding",
    "RoIMlpProjector",
    "Whitening",
    "build_projector",
    "complete_options",
    "register_projector",
]

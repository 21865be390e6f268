"""From the encoder's tokens to the language model's embeddings."""

from projector.grid import AveragePool, PixelShuffle
from projector.mlp import Linear, Mlp, RoIMlp
from projector.registry import PROJECTORS, Projector, build_projector, complete_options, register_projector
from projector.resampler import Resampler
from projector.roi import RoIEmbedding
from projector.whitening import Whitening

__all__ = [
    "PROJECTORS",
    "AveragePool",
    "Linear",
    "Mlp",
    "PixelShuffle",
    "Projector",
    "Resampler",
    "RoIEmbedding",
    "RoIMlp",
    "Whitening",
    "build_projector",
    "complete_options",
    "register_projector",
]

"""From the encoder's tokens to the language model's embeddings."""

from projector.mlp import Linear, Mlp
from projector.registry import PROJECTORS, Projector, build_projector, register_projector
from projector.roi import RoIEmbedding
from projector.whitening import Whitening

__all__ = [
    "PROJECTORS",
    "Linear",
    "Mlp",
    "Projector",
    "RoIEmbedding",
    "Whitening",
    "build_projector",
    "register_projector",
]

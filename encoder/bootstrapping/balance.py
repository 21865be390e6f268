"""How the outputs of a teacher are scaled before squares of differences are taken: by the teacher's own variance.

Features of one tower vary by hundredths, of another by tens; without this the latter would be all that counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError


class Balance(nn.Module):
    """Features (..., D) of a teacher -> (y - mean) A (..., M), which have a variance of 1, and back.

    Args:
        mean: (D,), of the teacher's features.
        matrix: A, (D, M).
        inverse: (M, D), with A · inverse = 1.
        dispersion: (), mean square of the angles between the features and their mean direction.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    dispersion: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor, inverse: Tensor, dispersion: Tensor):
        super().__init__()
        for name, value in (("mean", mean), ("matrix", matrix), ("inverse", inverse), ("dispersion", dispersion)):
            self.register_buffer(name, value.float().contiguous())  # as it comes from a file: rounding is the same

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., M), in float32."""
        with torch.autocast(features.device.type, enabled=False):
            balanced: Tensor = (features.float() - self.mean) @ self.matrix
        return balanced

    def restored(self, balanced: Tensor) -> Tensor:
        """(..., M) -> (..., D), in float32."""
        with torch.autocast(balanced.device.type, enabled=False):
            features: Tensor = balanced.float() @ self.inverse + self.mean
        return features

    @classmethod
    def of(cls, kind: str, features: Tensor) -> Balance:
        """The balance of a teacher with such features.

        Args:
            kind: one of `BALANCES`.
            features: (n, D), of some hundred images.

        Raises:
            InputError: they are all the same.
        """
        features = features.double()
        mean, covariance = features.mean(dim=0), torch.cov(features.T)
        if not covariance.diagonal().sum() > 0:
            raise InputError("balance: a teacher says the same of all images; give others, or another teacher")
        matrix, inverse = BALANCES[kind](covariance)
        return cls(mean, matrix, inverse, angles(features, mean.expand_as(features)).square().mean())


def phi_s(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """PHI-S (arXiv 2410.01680): the principal axes, a Hadamard matrix, and one scale.

    The Hadamard matrix mixes all axes in equal parts, so every feature has the same variance, while lengths and angles
    between differences stay as they were. There is one for each power of 2: of the next one D rows are taken, so M can
    be larger than D, and the rotation into M dimensions loses nothing.
    """
    width = len(covariance)
    rotation = torch.linalg.eigh(covariance).eigenvectors @ hadamard(covariance, width)
    scale = (covariance.diagonal().sum() / rotation.shape[1]).sqrt()
    return rotation / scale, rotation.T * scale


def hadamard(like: Tensor, rows: int) -> Tensor:
    """The first rows of Sylvester's Hadamard matrix of the next power of 2, of length 1: (rows, M)."""
    matrix = like.new_ones(1, 1)
    while len(matrix) < rows:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix[:rows] / math.sqrt(len(matrix))


def standardized(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Each feature by its own standard deviation; of those that hardly vary, by a thousandth of the mean one."""
    deviation = covariance.diagonal().sqrt()
    deviation = deviation.clamp(min=1e-3 * deviation.mean().item())
    return torch.diag(1 / deviation), torch.diag(deviation)


def unbalanced(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The features as they are, but for their mean."""
    one = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return one, one


BALANCES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "phi_s": phi_s,
    "standardized": standardized,
    "none": unbalanced,
}


def balanced_width(kind: str, width: int) -> int:
    """M, of features of this width."""
    return int(2 ** math.ceil(math.log2(width))) if kind == "phi_s" else width


def angles(ours: Tensor, theirs: Tensor) -> Tensor:
    """Angles between vectors, (..., E), (..., E) -> (...), in radians; their gradient is finite everywhere."""
    ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
    return 2 * torch.atan2((ours - theirs).norm(dim=-1), (ours + theirs).norm(dim=-1))

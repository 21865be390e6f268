"""Losses by name: what a student is told about its teacher. Each is a mean, in float32, and 0 where they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
from encoder.teachers import Teacher


@dataclass(frozen=True)
class Target:
    """What a teacher makes of a batch.

    Attributes:
        embedding: (B, E), of the whole image.
        patches: (B, D, h, w), what leaves its last block; None where no loss reads it.
    """

    embedding: Tensor
    patches: Tensor | None = None


def cosine(student: SparseFormerOutput, target: Target) -> Tensor:
    """1 - cosine of the angle between the embeddings (arXiv 2312.01987), in [0, 2]."""
    return cosine_distance(student.embedding, target.embedding)


def tokens(student: SparseFormerOutput, target: Target) -> Tensor:
    """Feature distillation: each latent token that leaves the cortex against the teacher's patches in its RoI.

    Both are normed without weights (arXiv 2205.14141), and 1 - cosine taken, in [0, 2]. No gradient flows into the
    RoIs: they would move to where the teacher is easy to copy.
    """
    assert student.hidden_states is not None
    assert student.rois is not None
    assert target.patches is not None
    width = target.patches.shape[1]
    patches = F.layer_norm(target.patches.float().movedim(1, -1), (width,)).movedim(-1, 1)
    latent = student.hidden_states[-1][:, -student.rois.shape[1] :]  # the class token, which has no RoI, comes first
    return cosine_distance(F.layer_norm(latent.float(), (width,)), read_rois(patches, student.rois))


def relational(student: SparseFormerOutput, target: Target) -> Tensor:
    """Mean squared difference of the cosines between the images of a batch, each pair of different images.

    After arXiv 1907.09682. A process compares the images of its own batch only; of one image there is no pair: 0.
    """
    ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student.embedding, target.embedding))
    difference = (ours @ ours.T - theirs @ theirs.T).square().fill_diagonal_(0.0)
    return difference.sum() / max(1, len(ours) * (len(ours) - 1))


LOSSES: dict[str, Callable[[SparseFormerOutput, Target], Tensor]] = {
    "cosine": cosine,
    "tokens": tokens,
    "relational": relational,
}
READ_PATCHES = frozenset({"tokens"})


def check_losses(
    weights: Mapping[str, float],
    student: SparseFormerVisionModel | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Checks the weights of losses, and that these models have what they compare.

    Raises:
        ValueError: an unknown name, a negative weight or none that counts; patches that the teacher has not, or whose
            width is not that of the student's tokens.
    """
    if unknown := sorted(set(weights) - set(LOSSES)):
        raise ValueError(f"unknown {', '.join(unknown)}; there are {', '.join(LOSSES)}")
    if any(not 0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"{dict(weights)}: weights are finite and at least 0, and one is more")
    if student is not None and teacher is not None and reads_patches(weights):
        if teacher.blocks is None:
            raise ValueError(f"tokens: the teacher has no tokens: {teacher.unsupported}")
        if teacher.blocks.width != student.config.hidden_size:
            raise ValueError(
                f"tokens: the student's are {student.config.hidden_size} wide, the teacher's {teacher.blocks.width}; "
                "they can be compared where the cortex is the teacher's"
            )


def reads_patches(weights: Mapping[str, float]) -> bool:
    """Whether one of these losses reads the teacher's patches."""
    return any(weights.get(name) for name in READ_PATCHES)


def cosine_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - cosine of the angle between vectors, averaged: (..., E), (..., E) -> (), in float32."""
    return 1.0 - F.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean()


@torch.no_grad()
def read_rois(patches: Tensor, rois: Tensor) -> Tensor:
    """The mean of a patch grid over each RoI, what lies outside the image left out: 4 x 4 bilinear samples.

    Args:
        patches: (B, D, h, w).
        rois: (B, N, 4), x1, y1, x2, y2 in image units.

    Returns:
        (B, N, D)
    """
    height, width = patches.shape[-2:]
    boxes = rois.clamp(0.0, 1.0).to(patches.dtype) * rois.new_tensor(
        [width, height, width, height], dtype=patches.dtype
    )
    read: Tensor = roi_align(patches, list(boxes), output_size=1, sampling_ratio=4, aligned=True)
    return read.view(*rois.shape[:2], -1)

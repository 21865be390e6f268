"""Losses by name: what a student is told about its teacher. Each is a mean, in float32, and 0 where they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from encoder.bootstrapping.balance import Balance, angles
from encoder.geometry import WHOLE_IMAGE
from encoder.heads.grid import cells
from encoder.modeling import SparseFormerOutput, SparseFormerVisionModel
from encoder.teachers import Teacher


@dataclass(frozen=True)
class Target:
    """What a teacher makes of a batch.

    Attributes:
        embedding: (B, E), of the whole image.
        patches: (B, D, h, w), what leaves its last block or stage; None where no loss reads it.
        places: (B, E, h, w), the embedding of each place by itself; None where no loss reads it.
        balance: of the embedding; None where no loss reads it.
        patch_balance: of the patches; None where no loss reads it.
        window: which part of the student's images the teacher sees: x1, y1, x2, y2 in image units.
    """

    embedding: Tensor
    patches: Tensor | None = None
    places: Tensor | None = None
    balance: Balance | None = None
    patch_balance: Balance | None = None
    window: tuple[float, float, float, float] = WHOLE_IMAGE

    def seen(self, rois: Tensor) -> Tensor:
        """RoIs (..., 4) of the student's images in units of what the teacher sees of them."""
        x1, y1, x2, y2 = self.window
        return (rois - rois.new_tensor([x1, y1, x1, y1])) / rois.new_tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])

    @property
    def grid(self) -> Tensor:
        """Where its patches are: (h · w, 4), boxes in units of the student's images."""
        assert self.patches is not None
        x1, y1, x2, y2 = self.window
        height, width = self.patches.shape[-2:]
        boxes = cells(height, width, self.embedding.float())
        return boxes * boxes.new_tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1]) + boxes.new_tensor([x1, y1, x1, y1])


@dataclass
class Answer(SparseFormerOutput):
    """What a student says in the terms of a teacher.

    Attributes:
        grid: (B, h · w, M), of the teacher's patches, on their balanced scale; None where no loss reads it.
    """

    grid: Tensor | None = None


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
    latent = student.hidden_states[-1][:, -student.rois.shape[1] :]  # the class token, which has no RoI, comes first
    return _roi_distance(F.layer_norm(latent.float(), latent.shape[-1:]), normed(target.patches), student.rois, target)


def places(student: SparseFormerOutput, target: Target) -> Tensor:
    """Each latent token's own embedding against the teacher's of the places in its RoI: 1 - cosine, in [0, 2].

    The embedding of an image says nothing of what is where; this says it to every token, whatever the widths of student
    and teacher. No gradient flows into the RoIs, as for `tokens`.
    """
    assert student.token_embeds is not None
    assert student.rois is not None
    assert target.places is not None
    return _roi_distance(student.token_embeds, target.places.float(), student.rois, target)


def _roi_distance(ours: Tensor, theirs: Tensor, rois: Tensor, target: Target) -> Tensor:
    """1 - cosine of tokens (B, N, D) and the means of a grid (B, D, h, w) over their RoIs, those the teacher sees."""
    seen = target.seen(rois)
    distance = 1.0 - F.cosine_similarity(ours.float(), read_rois(theirs, seen), dim=-1)
    if target.window == WHOLE_IMAGE:  # then also those that have left it
        return distance.mean()
    inside = ((seen[..., :2] < 1) & (seen[..., 2:] > 0)).all(dim=-1)
    return (distance * inside).sum() / inside.sum().clamp(min=1)


def relational(student: SparseFormerOutput, target: Target) -> Tensor:
    """Mean squared difference of the cosines between the images of a batch, each pair of different images.

    After arXiv 1907.09682. A process compares the images of its own batch only; of one image there is no pair: 0.
    """
    ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student.embedding, target.embedding))
    difference = (ours @ ours.T - theirs @ theirs.T).square().fill_diagonal_(0.0)
    return difference.sum() / max(1, len(ours) * (len(ours) - 1))


def focus(student: SparseFormerOutput, target: Target) -> Tensor:
    """How far the RoIs are from what stands out to the teacher.

    What stands out are the patches that differ from the image's mean patch: of the squared distances, each patch's
    fraction. The RoIs are a mixture of Gaussians that deviate by a third of their sides, as their points do. Returned
    is the Kullback-Leibler divergence of the mixture from the fractions. Its gradient draws RoIs from afar, where that
    of a bilinear sample says nothing of what lies beyond the next pixel of the feature map.
    """
    assert student.rois is not None
    assert target.patches is not None
    patches = normed(target.patches)
    standing_out = (patches - patches.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1)  # (B, h, w)
    standing_out = standing_out + 1e-6  # of patches that are all alike each stands out as much
    fractions = standing_out.flatten(1) / standing_out.sum(dim=(1, 2))[:, None]
    rois = target.seen(student.rois.float())
    log_densities = []  # of each RoI along x, (B, N, w), and y, (B, N, h), for a patch's extent
    for axis, side in ((0, standing_out.shape[2]), (1, standing_out.shape[1])):
        first, last = rois[..., axis, None], rois[..., axis + 2, None]
        deviation = ((last - first).abs() / 3).clamp_min(0.5 / side)
        place = (torch.arange(side, device=rois.device) + 0.5) / side
        distance = (place - (first + last) / 2) / deviation
        log_densities.append(-0.5 * distance.square() - (math.sqrt(2 * math.pi) * side * deviation).log())
    x, y = log_densities
    mixture = (y[..., :, None] + x[..., None, :]).logsumexp(dim=1).flatten(1) - math.log(rois.shape[1])
    return F.kl_div(mixture, fractions, reduction="batchmean")


def mse(student: SparseFormerOutput, target: Target) -> Tensor:
    """Mean squared difference of the embeddings on the teacher's balanced scale.

    With a balance it is 1 for who always gives the teacher's mean: the fraction of its variance that is not explained.
    """
    assert target.balance is not None
    return F.mse_loss(target.balance(student.embedding), target.balance(target.embedding))


def angle(student: SparseFormerOutput, target: Target) -> Tensor:
    """Mean squared angle between the embeddings, in units of the teacher's own dispersion.

    1 for who always gives the teacher's mean direction, whether its embeddings lie close together or far apart. The
    idea is C-RADIOv4's.
    """
    assert target.balance is not None
    return angles(student.embedding.float(), target.embedding.float()).square().mean() / target.balance.dispersion


def grid(student: Answer, target: Target) -> Tensor:
    """Mean squared difference of the teacher's patches, on their balanced scale, and what a decoder makes of tokens.

    The decoder lives in training alone (the idea is RADIO1D's): what it can rebuild the tokens hold.
    """
    assert student.grid is not None
    assert target.patches is not None
    assert target.patch_balance is not None
    return F.mse_loss(student.grid.float(), target.patch_balance(target.patches.flatten(2).mT))


LOSSES: dict[str, Callable[[Any, Target], Tensor]] = {
    "cosine": cosine,
    "tokens": tokens,
    "places": places,
    "relational": relational,
    "focus": focus,
    "mse": mse,
    "angle": angle,
    "grid": grid,
}
READ_PATCHES = frozenset({"tokens", "focus", "places", "grid"})
READ_EMBEDDING = frozenset({"cosine", "relational", "places", "mse", "angle"})


def check_losses(
    weights: Mapping[str, float],
    student: SparseFormerVisionModel | None = None,
    teacher: Teacher | None = None,
    own: bool = True,
) -> None:
    """Checks the weights of losses, and that these models have what they compare.

    Args:
        own: whether the student's tokens are compared as they are; else a head gives them the teacher's width.

    Raises:
        ValueError: an unknown name, a negative weight or none that counts; patches or places that the teacher has not,
            patches whose width is not that of the student's tokens, tokens without embeddings of their own.
    """
    if unknown := sorted(set(weights) - set(LOSSES)):
        raise ValueError(f"unknown {', '.join(unknown)}; there are {', '.join(LOSSES)}")
    if any(not 0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"{dict(weights)}: weights are finite and at least 0, and one is more")
    if student is not None and teacher is not None and reads_patches(weights):
        if not teacher.patch_width:
            raise ValueError(f"{', '.join(sorted(READ_PATCHES))}: the teacher has no patches: {teacher.unsupported}")
        if own and weights.get("tokens") and teacher.patch_width != student.config.hidden_size:
            raise ValueError(
                f"tokens: the student's are {student.config.hidden_size} wide, the teacher's {teacher.patch_width}; "
                "they can be compared where the cortex is the teacher's, or new and as wide"
            )
    if student is not None and teacher is not None and weights.get("places"):
        teacher.with_places(next(teacher.parameters()).new_zeros(1, 3, teacher.image_size, teacher.image_size))
        if student.attention_pool is not None:
            raise ValueError("places: the student's attention pool makes one embedding of all tokens")


def reads_patches(weights: Mapping[str, float]) -> bool:
    """Whether one of these losses reads the teacher's patches, or what it says of places."""
    return any(weights.get(name) for name in READ_PATCHES)


def normed(patches: Tensor) -> Tensor:
    """Patches (B, D, h, w), each normed over its channels without weights, in float32."""
    channels_last = patches.float().movedim(1, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, 1)


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

"""Do RoIs land on objects? The fraction of a student's sampling points inside the objects of generated images."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from data.sources import open_images
from encoder import SparseFormerImageProcessor, SparseFormerVisionModel


@torch.no_grad()
def points_on_objects(
    model: SparseFormerVisionModel, image_processor: SparseFormerImageProcessor, source: str
) -> tuple[list[float], float]:
    """Samples held-out generated images without text, as large as the model's are.

    Args:
        source: of generated images, such as "synthetic:test:500:scale=0.3" or "drawings:artist:500", without a size.

    Returns:
        the fraction of points inside objects by sampling step, first to last, and the objects' fraction of the area,
        all in [0, 1]. Points outside the image are on no object.

    Raises:
        InputError: the source's images have no masks.
    """
    height, width = image_processor.output_size
    images: Any = open_images(f"{source}:text=0:size={height}x{width}")
    if not hasattr(images, "scene"):
        raise InputError(f"--images {source}: has no masks of its objects; name synthetic:… or drawings:…")
    whole = deepcopy(image_processor)  # neither resized nor cropped, so that points and mask lie alike
    whole.do_resize = whole.do_center_crop = False
    model.eval()
    fractions, area = [], 0.0
    for index in range(len(images)):
        scene = images.scene(index)
        mask = torch.from_numpy(scene.mask() > 0)
        pixels = whole(images=scene.image(), return_tensors="pt")["pixel_values"].to(model.device)
        steps = model(pixels, output_sampling_points=True).sampling_points
        fractions.append(torch.stack([inside(points[0].cpu(), mask).float().mean() for points in steps]))
        area += mask.float().mean().item()
    return torch.stack(fractions).mean(dim=0).tolist(), area / len(images)


def inside(points: Tensor, mask: Tensor) -> Tensor:
    """Tells which points (..., 2), x and y in image units, lie on a mask (H, W) of bool: (...)."""
    height, width = mask.shape
    column, row = ((points[..., axis] * side).floor().long() for axis, side in ((0, width), (1, height)))
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return within & mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]

"""Cases of `mllm bench resolution`: encoders at several sizes of image, and images of several sizes in one batch.

Whatever an image's size a SparseFormer has the same number of tokens. A dense tower, transformers' with its position
embeddings interpolated, has one for each patch. Each encoder is in memory once for all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import cycle, islice

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from data.errors import translated
from data.limits import MAX_SIDE, check_range
from encoder import SparseFormerConfig
from mllm.lab.benchmarking.case import META, Case, Place, Run, counted, random_images
from mllm.lab.benchmarking.first_token import tower_config

DEFAULT_ENCODERS = ("sparseformer_btsp_openai_clip_large", "ViT-L-14")
DEFAULT_SIDES = (224, 336, 448, 672, 1024)
ASPECT_RATIOS = (4 / 3, 3 / 4, 16 / 9, 9 / 16, 3 / 2)  # of mixed images in turn, width over height
Build = Callable[[Place], nn.Module]


def resolution_cases(names: Sequence[str], sides: Sequence[int]) -> tuple[list[Case], list[Case]]:
    """Lists one case for each encoder and side of square images, and those of a batch of mixed sizes.

    Args:
        names: as `tower_config` takes them.
        sides: in pixels.

    Raises:
        InputError: an unknown name; a size that is none, or that an encoder does not take.
    """
    for side in sides:
        check_range("--image-size", side, 1, MAX_SIDE)
    configs = {name: tower_config(name) for name in names}
    builds = {name: _once(config) for name, config in configs.items()}
    square = [_square(name, configs[name], builds[name], side) for side in sides for name in names]
    mixed = []
    for name, config in configs.items():
        if isinstance(config, SparseFormerConfig):
            mixed += _mixed(name, config, builds[name], mixed_sizes(sides))
    return square, mixed


def mixed_sizes(sides: Sequence[int]) -> list[tuple[int, int]]:
    """Makes of each side the height and width of an image of about side² pixels, their aspect ratios different."""
    roots = [math.sqrt(ratio) for ratio in islice(cycle(ASPECT_RATIOS), len(sides))]
    return [(max(1, round(side / root)), max(1, round(side * root))) for side, root in zip(sides, roots, strict=True)]


def _once(config: PreTrainedConfig) -> Build:
    """Builds a tower with random weights where it is first needed, for all cases."""

    @cache
    def build(device: torch.device, dtype: torch.dtype) -> nn.Module:
        with torch.device(device):
            tower: nn.Module = AutoModel.from_config(config, dtype=dtype)
        return tower.eval().requires_grad_(False)

    return lambda place: build(place.device, place.dtype)


def _square(name: str, config: PreTrainedConfig, build: Build, side: int) -> Case:
    def step(module: nn.Module, batch: int, place: Place) -> Run:
        images = random_images(batch, side, place.device, place.dtype)
        return lambda: module(images, interpolate_pos_encoding=True)  # which means nothing to a SparseFormer

    meta = Place(META)
    with translated(f"--model {name}: takes no images of {side} x {side} pixels"):
        tokens = step(build(meta), 1, meta)().last_hidden_state.shape[1]
    sparse, at = isinstance(config, SparseFormerConfig), f"{side} px"
    return Case(name, sparse, at, tokens, build, step, counted(step), setting=f", {at}", image_size=side)


def _mixed(name: str, config: SparseFormerConfig, build: Build, sizes: Sequence[tuple[int, int]]) -> list[Case]:
    """The same images as one batch that says their sizes, and as an encoder that cannot would take them."""

    def step(way: str, module: nn.Module, batch: int, place: Place) -> Run:
        each = list(islice(cycle(sizes), batch))
        if way == "one by one":
            alone = [random_images(1, size, place.device, place.dtype) for size in each]
            return lambda: [module(image).embedding for image in alone]
        height, width = (max(side) for side in zip(*each, strict=True))
        padded = random_images(batch, (height, width), place.device, place.dtype)
        return partial(module, padded, image_sizes=each if way == "together" else None)

    def case(way: str) -> Case:
        run, at, ours = partial(step, way), "mixed sizes", way == "together"
        return Case(name, ours, at, config.num_tokens, build, run, counted(run), setting=f", {at} {way}")

    return [case(way) for way in ("together", "one by one", "padded to the largest")]

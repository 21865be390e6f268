"""What tokens sample: the map of an early convolution, or of stages that were a CNN's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from data.errors import translated
from encoder import geometry
from encoder.compat import is_split, made_whole
from encoder.configuration import SparseFormerConfig


class Stem(nn.Module):
    """(B, 3, H, W) -> (B, C, H/s, W/s), each pixel normalized over its channels; s is the ``stride``."""

    stride: int

    def __init__(self, config: SparseFormerConfig):
        super().__init__()
        self.padding = {"border": "replicate", "zeros": "constant"}[config.sampling_padding]

    def maps(self, images: list[Tensor]) -> list[Tensor]:
        """The maps of images of several sizes, (B, 3, H, W) of each; on every process in the same calls of modules."""
        raise NotImplementedError

    def forward(
        self, pixel_values: Tensor, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The feature maps of images that may be padded at the right and at the bottom.

        Args:
            image_sizes: height and width of each image; None: as they are.

        Returns:
            (B, C, h, w), and (B, 1, 4), the part of its map that each image fills, as `Sample` takes it; None for the
            whole. Beyond an image its map holds what sampling outside of it reads.
        """
        if image_sizes is None:
            return self.maps([channels_last(pixel_values)])[0], None
        groups: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(image_sizes):
            groups.setdefault(size, []).append(index)
        images = [pixel_values[indices, :, :height, :width] for (height, width), indices in groups.items()]
        maps = self.maps(list(map(channels_last, images)))
        height, width = (max(features.shape[axis] for features in maps) for axis in (-2, -1))
        order = torch.tensor([index for indices in groups.values() for index in indices])
        padded, extents = [], []
        for features in maps:
            count, h, w = features.shape[0], *features.shape[-2:]
            padded.append(F.pad(features, (0, width - w, 0, height - h), mode=self.padding))
            extents += [[w / width, h / height] * 2] * count
        place = order.argsort().to(pixel_values.device)
        extent = torch.tensor(extents, dtype=maps[0].dtype, device=pixel_values.device)[:, None]
        return torch.cat(padded)[place], extent[place]


class ImageConvolution(nn.Conv2d):
    """A convolution over images of several sizes, in one call and with one result: ZeRO-3 counts both."""

    def forward(self, images: Any) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'); of a list of such, all pixels behind each other, (P, C')."""
        if not isinstance(images, Tensor):
            return torch.cat(
                [super(ImageConvolution, self).forward(g).permute(0, 2, 3, 1).flatten(0, 2) for g in images]
            )
        return super().forward(images)


class EarlyConvolution(Stem):
    """Convolution, ReLU, max-pool, norm: a map at a quarter of the image's height and width."""

    stride = 4

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        self.conv = ImageConvolution(3, config.early_channels, kernel_size=7, stride=2, padding=3)

    def maps(self, images: list[Tensor]) -> list[Tensor]:
        if len(images) == 1:
            return [self.finish(self.conv(images[0]))]
        shapes = [(len(group), (group.shape[2] + 1) // 2, (group.shape[3] + 1) // 2) for group in images]
        pixels = self.conv(images).split([math.prod(shape) for shape in shapes])
        each = [part.view(*shape, -1).permute(0, 3, 1, 2) for part, shape in zip(pixels, shapes, strict=True)]
        return [self.finish(features) for features in each]

    def finish(self, features: Tensor) -> Tensor:
        """What follows the convolution."""
        # ReLU and the maximum may swap, and the maximum leaves a quarter of the pixels.
        return normed(F.relu(F.max_pool2d(features, kernel_size=3, stride=2, padding=1)))


class Stages(GradientCheckpointingLayer):
    """The first stages of a model of timm's: images (B, 3, H, W) -> a map (B, C', H/s, W/s) of each stride s.

    They stay in eval mode: norms keep the statistics that came with the weights. Those of a small batch are poor and
    differ from process to process, and what is recomputed would count twice.

    Args:
        architecture: its name in timm; nothing is fetched.
        out_indices: of its stages, as timm counts them.
    """

    net: Any  # of timm
    scale: Tensor
    shift: Tensor

    def __init__(self, architecture: str, out_indices: Sequence[int]):
        super().__init__()
        import timm  # where it is used: it takes a second, and a chat needs it only for such a model

        with translated(f"stem: {architecture}"):
            self.net = made_whole(
                lambda: timm.create_model(
                    architecture, features_only=True, feature_cls="getter", out_indices=list(out_indices)
                )
            )
        self.net.eval()
        for weight in self.net.parameters():
            weight._is_hf_initialized = True  # to transformers: timm's own start stays
        # What becomes of a teacher's images before these stages see them, whose mean and deviation may be others.
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.register_buffer("shift", torch.zeros(3, 1, 1))

    def train(self, mode: bool = True) -> Stages:
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(images * self.scale + self.shift)
        return maps


class InheritedStem(Stem):
    """Stages that were a CNN's, and their maps of several strides as one, at the smallest stride.

    Each map is normed and goes through a 1x1 convolution of its own; the results are enlarged to the finest one and
    added. That is the same as to enlarge, concatenate and project, for a fraction of the arithmetic, and to sample each
    map at a token's points by itself (arXiv 2010.04159) would be nearly the same, for as many samples more.
    """

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        assert config.stem is not None
        self.stages = Stages(**config.stem)
        info = self.stages.net.feature_info
        self.stride = min(info.reduction())
        self.finest = info.reduction().index(self.stride)
        self.projections = nn.ModuleList(nn.Conv2d(width, config.early_channels, 1) for width in info.channels())

    def maps(self, images: list[Tensor]) -> list[Tensor]:
        own = len(images)
        maps = [self._map(group) for group in images + [images[0][:1]] * (self._calls(own) - own)]
        for more in maps[own:]:
            maps[0] = maps[0] + 0.0 * more.mean()  # backward they count, too
        return maps[:own]

    def _map(self, images: Tensor) -> Tensor:
        maps = [
            project(normed(features).to(features.dtype))
            for project, features in zip(self.projections, self.stages(images), strict=True)
        ]
        size = maps[self.finest].shape[-2:]
        total = sum(F.interpolate(features, size, mode="bilinear") for features in maps)
        return normed(cast(Tensor, total))

    def _calls(self, own: int) -> int:
        """How often the stages are called: ZeRO-3 gathers a module's weights on all processes in each of its calls."""
        if not is_split(weight := next(self.projections.parameters())):
            return own
        most = torch.tensor(own, device=weight.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most)


def channels_last(images: Tensor) -> Tensor:
    """The convolutions, the norms and the sampling of points all go through a pixel's channels."""
    return images.contiguous(memory_format=torch.channels_last)


def normed(features: Tensor) -> Tensor:
    """(B, C, H, W), each pixel normalized over its channels, in at least float32, as LayerNorm does under autocast."""
    features = features.permute(0, 2, 3, 1)
    features = features.to(geometry.geometry_dtype(features.dtype))
    return F.layer_norm(features, features.shape[-1:], eps=1e-5).permute(0, 3, 1, 2)

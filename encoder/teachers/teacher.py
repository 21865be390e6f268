"""A teacher: a frozen tower of any library, and what its factory found out about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from data.registry import Registry
from encoder.clip import Clip
from encoder.errors import TeacherError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.teachers.blocks import Blocks

Embed = Callable[[nn.Module, Tensor], Tensor]
Dense = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TeacherRequest:
    """What `load_teacher` was asked for; ``directory`` says whether ``name`` is one."""

    name: str
    pretrained: str | None
    directory: bool
    image_size: int | None
    random: bool
    tokenizer: str | None
    text: bool


@dataclass
class TextSide:
    """What makes a CLIP of an image tower: text tower and logit scale, tokenizer, configuration in open_clip's format.

    ``clip`` is a whole open_clip model, the teacher's image tower included.
    """

    clip: Clip
    tokenizer: Any
    model_config: dict[str, Any]


@dataclass
class LoadedTeacher:
    """A teacher and, if it has one, the text side of its CLIP."""

    teacher: Teacher
    text: TextSide | None = None


@dataclass(frozen=True)
class Trunk:
    """A model of timm's in a tower, whose maps of every stage can be read.

    Attributes:
        model: with its own head.
        head: what the tower does to the model's output.
    """

    model: Any
    head: Callable[[Tensor], Tensor]

    @property
    def strides(self) -> list[int]:
        """Of each stage's map, in pixels of the image."""
        return [info["reduction"] for info in self.model.feature_info]

    def with_maps(self, pixel_values: Tensor, indices: int | list[int]) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 3, H, W) -> the tower's embeddings (B, E), and maps (B, C, h, w).

        Args:
            indices: of the stages whose maps are returned, or of how many of the last.
        """
        features, maps = self.model.forward_intermediates(pixel_values, indices)
        return self.embed(features), maps

    def embed(self, features: Tensor) -> Tensor:
        """What leaves the last stage, (B, C, h, w) -> embeddings (B, E)."""
        return self.head(self.model.forward_head(features))


class Teacher(nn.Module):
    """A frozen tower, in eval mode, that a SparseFormer learns from. The factory of its library makes it.

    Args:
        tower: the tower itself.
        embed: runs the tower: tower, normalized images (B, 3, H, W) -> embeddings (B, E).
        image_processor: prepares its images, which are square.
        embed_dim: E.
        blocks: what a student can inherit; None: nothing, and ``unsupported`` says why.
        trunk: the model of timm's that the tower is or holds, whose first stages can be inherited; None: it has none.
        dense: runs a tower whose blocks say nothing of a grid: -> embeddings (B, E) and patches (B, D, h, w).
    """

    def __init__(
        self,
        tower: nn.Module,
        embed: Embed,
        image_processor: SparseFormerImageProcessor,
        embed_dim: int,
        blocks: Blocks | None = None,
        unsupported: str = "",
        trunk: Trunk | None = None,
        dense: Dense | None = None,
    ):
        super().__init__()
        self.tower = tower
        self.embed = embed
        self.image_processor = image_processor
        self.image_size: int = image_processor.output_size[0]
        self.embed_dim = embed_dim
        self.blocks = blocks
        self.unsupported = unsupported
        self.trunk = trunk
        self.dense = dense

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeds images: (B, 3, H, W), normalized -> (B, E)."""
        return self.embed(self.tower, pixel_values)

    @torch.no_grad()
    def with_patches(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds images and keeps the patches that leave the last block, not normed; without blocks the last map.

        Those of a tower of transformers without blocks are normed; those of a SparseFormer are its tokens, put where
        their RoIs are.

        Args:
            pixel_values: (B, 3, H, W), normalized.

        Returns:
            embeddings (B, E) and patches (B, D, h, h), D being `patch_width`.

        Raises:
            TeacherError: it has neither blocks nor maps.
        """
        if self.dense is not None and (self.blocks is None or self.blocks.prefix is None):
            return self.dense(self.tower, pixel_values)
        if self.blocks is None and self.trunk is not None:
            embeddings, (last,) = self.trunk.with_maps(pixel_values, 1)
            return embeddings, last
        blocks, outputs = self.inheritable(), list[Tensor]()
        hook = blocks.modules[-1].register_forward_hook(lambda block, args, output: outputs.append(output))
        try:
            embeddings = self(pixel_values)
        finally:
            hook.remove()
        patches = outputs[0][:, blocks.prefix :].mT
        side = math.isqrt(patches.shape[-1])
        return embeddings, patches.unflatten(-1, (side, side))

    @torch.no_grad()
    def with_places(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a CNN says of the image, what leaves its last stage, and what it would say if a place were all of it.

        It pools before its head, so the embedding of a place is that of its pixel of the last map (arXiv 1512.04150).

        Args:
            pixel_values: (B, 3, H, W), normalized.

        Returns:
            embeddings (B, E), the last map (B, D, h, w), and embeddings of its places (B, E, h, w).

        Raises:
            TeacherError: it has no such map.
        """
        if self.trunk is None or self.blocks is not None:
            raise TeacherError("only a CNN of timm's embeds each place by itself")
        features, (last,) = self.trunk.model.forward_intermediates(pixel_values, 1)
        if features.shape[2:] != last.shape[2:]:
            raise TeacherError(f"a {type(self.trunk.model).__name__} has no map (B, C, h, w) that it pools")
        pixels = features.movedim(1, -1)
        places = self.trunk.embed(pixels.flatten(0, 2)[..., None, None])
        return self.trunk.embed(features), last, places.unflatten(0, pixels.shape[:3]).movedim(-1, 1)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode."""
        return super().train(False)

    def inheritable(self) -> Blocks:
        """Returns its blocks; raises TeacherError with the reason if there are none to inherit."""
        if self.blocks is None:
            raise TeacherError(self.unsupported)
        return self.blocks

    @property
    def description(self) -> str:
        """What it is in a few words, for the log."""
        if self.blocks is not None:
            return f"{self.num_blocks} blocks, {self.num_tokens} tokens"
        return f"{type(self.tower).__name__}, {self.embed_dim:,} features, no blocks to inherit ({self.unsupported})"

    @property
    def patch_width(self) -> int:
        """Width of the patches of `with_patches`; 0 if it has none."""
        if self.blocks is None and self.dense is not None:
            return int(self.tower.config.hidden_size)  # type: ignore[union-attr,arg-type]
        if self.blocks is None:
            return 0 if self.trunk is None else int(self.trunk.model.feature_info[-1]["num_chs"])
        return self.blocks.width

    @property
    def num_blocks(self) -> int:
        """L; 0 if there is nothing to inherit."""
        return 0 if self.blocks is None else len(self.blocks.modules)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, class token and registers counted; 0 if it has no blocks to inherit."""
        return 0 if self.blocks is None else self.blocks.num_tokens


def make_teacher(
    tower: nn.Module,
    embed: Embed,
    image_processor: SparseFormerImageProcessor,
    read_blocks: Callable[[], Blocks],
    trunk: Trunk | None = None,
    dense: Dense | None = None,
) -> Teacher:
    """Freezes a tower, reads its blocks and embeds one dummy image.

    Args:
        tower, embed, image_processor, trunk, dense: as of `Teacher`.
        read_blocks: raises TeacherError if there are none to inherit.

    Raises:
        TeacherError: images that are not square, or a tower whose output is no (B, E).
    """
    tower.requires_grad_(False).eval()
    height, width = image_processor.output_size
    if height != width:
        raise TeacherError(f"images of {height}x{width} pixels: only square ones are supported")
    blocks, unsupported = None, ""
    try:
        blocks = read_blocks()
    except TeacherError as error:
        unsupported = str(error)
    with torch.no_grad():
        shape = embed(tower, next(tower.parameters()).new_zeros(1, 3, height, width)).shape
    if len(shape) != 2:
        raise TeacherError(f"its output for one image has the shape {tuple(shape)}, not (1, E)")
    return Teacher(tower, embed, image_processor, shape[1], blocks, unsupported, trunk, dense)


LIBRARIES: Registry[Callable[[TeacherRequest], LoadedTeacher]] = Registry(
    "library of teachers",
    {name: f"encoder.teachers.from_{name}" for name in ("open_clip", "sparseformer", "timm", "transformers")},
)


L = TypeVar("L", bound=Callable[[TeacherRequest], LoadedTeacher])


def register_teacher(library: str) -> Callable[[L], L]:
    """Returns a decorator that makes a function the loader of the teachers ``LIBRARY:NAME``.

    It raises ValueError if the name is taken.
    """

    def decorator(load: L) -> L:
        LIBRARIES.register(library, load)
        return load

    return decorator

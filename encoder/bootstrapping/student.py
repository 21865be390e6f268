"""Build the student: a SparseFormer that inherits the later blocks of its teacher.

Blocks [0, L/3) are dropped, blocks [L/3, L) with the final norm, the pooling and the projection become the cortex
(Bootstrapping SparseFormers, CVPR 2024, arXiv 2312.01987). A teacher without such blocks, a CNN say, gives its
embedding to learn and, in place of a new early convolution, its first stages (``stem``); the cortex then comes from
another ViT (``init_from``), or starts from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from data.errors import translated
from data.limits import MAX_DEPTH, MAX_TOKENS, MAX_WIDTH, check_range
from encoder.configuration import SparseFormerConfig, bootstrapped_units
from encoder.modeling import SparseFormerVisionModel
from encoder.stem import Stages
from encoder.teachers import Teacher, TeacherError


@dataclass
class StudentOptions:
    """How a student differs from its teacher. None takes the published rule."""

    # Tokens, the class token counted; None: a quarter of the teacher's.
    num_tokens: int | None = None
    # First inherited block; None: L/3.
    first_block: int | None = None
    # Width of the repeated focusing unit; None: half the cortex's, in whole heads.
    focus_width: int | None = None
    # Runs of the repeated focusing unit.
    repeats: int = 4
    # Whether tokens move and resize their RoIs; else these stay on the grid (to measure what moving them is worth).
    move_rois: bool = True
    # Points that each token reads.
    num_sampling_points: int = 16
    # Channels of the early feature map.
    early_channels: int = 64
    # "inherit": the teacher's first stages, of a timm CNN or hybrid, in place of a new early convolution; or of another
    # model, named like the teacher.
    stem: str | None = None
    # Strides of the stages whose maps the tokens sample.
    stem_strides: list[int] = field(default_factory=lambda: [8, 16])
    # Inner width of the mixing weights' generator.
    mixing_hidden_size: int = 128
    # Whether the cortex starts from the teacher's blocks, or from nothing (to measure what inheriting is worth).
    inherit: bool = True
    # Width and number of blocks of a cortex that starts from nothing: where there are no blocks to be like, or with
    # inherit=false, of a student smaller than its teacher.
    width: int | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("num_tokens", 2, MAX_TOKENS),
            ("focus_width", 1, MAX_WIDTH),
            ("repeats", 1, MAX_DEPTH),
            ("num_sampling_points", 1, MAX_TOKENS),
            ("early_channels", 1, MAX_WIDTH),
            ("mixing_hidden_size", 1, MAX_WIDTH),
            ("width", 1, MAX_WIDTH),
            ("depth", 1, MAX_DEPTH),
        ):
            check_range(f"student.{name}", getattr(self, name), least, most)
        if not self.stem_strides:
            raise ValueError("student.stem_strides: at least one is needed")

    @property
    def new_cortex(self) -> bool:
        """Whether the cortex is like no inherited blocks, also where there are some."""
        return not self.inherit and self.width is not None

    def resolve_first_block(self, teacher: Teacher) -> int:
        """Index of the first inherited block; raises ValueError if it leaves no cortex."""
        first = teacher.num_blocks // 3 if self.first_block is None else self.first_block
        if not 0 <= first < teacher.num_blocks:
            raise ValueError(f"first_block={first}: the teacher has blocks 0 to {teacher.num_blocks - 1}")
        return first


def student_config(
    teacher: Teacher, options: StudentOptions, init_from: Teacher | None = None, stem_from: Teacher | None = None
) -> SparseFormerConfig:
    """The configuration of a student of this teacher; see `build_student`.

    That of a classifier numbers its classes, so that transformers loads it as one.
    """
    if options.num_tokens is None and not teacher.num_tokens:
        raise ValueError("num_tokens: the teacher has no tokens to take a quarter of; set it")
    tokens = max(2, teacher.num_tokens // 4) if options.num_tokens is None else options.num_tokens
    if tokens < 2:
        raise ValueError(f"num_tokens={tokens}: at least two are needed, a class token and one that looks")
    width, depth, fields = _cortex(teacher, options, init_from or teacher)
    head_dim = fields["attention_head_dim"]
    focus_width = options.focus_width or max(1, width // 2 // head_dim) * head_dim
    units = bootstrapped_units(focus_width, width, depth, options.repeats)
    if not options.move_rois:
        units[0]["ops"].remove("roi")
    if init_from is None and teacher.blocks is not None and fields.get("projection_bias"):
        fields = fields | {"num_labels": fields["projection_dim"]}
    return SparseFormerConfig(
        units=units,
        num_latent_tokens=tokens - fields.get("class_token", True),
        nested_tokens=True,
        num_sampling_points=options.num_sampling_points,
        early_channels=options.early_channels,
        stem=None if stem_from is None else _stem(stem_from, options.stem_strides),
        mixing_hidden_size=options.mixing_hidden_size,
        image_size=teacher.image_size,
        **fields,
    )


def _stem(source: Teacher, strides: list[int]) -> dict[str, Any]:
    """The field ``stem`` of the configuration, of this tower's stages; of several with a stride the last."""
    if source.trunk is None:
        raise ValueError(
            f"stem: the stages of timm's models can be inherited, and a {type(source.tower).__name__} is none"
        )
    known = source.trunk.strides
    if unknown := sorted(set(strides) - set(known)):
        raise ValueError(f"stem_strides: no map has the stride {unknown[0]}; there are {sorted(set(known))}")
    stages = sorted(max(index for index, each in enumerate(known) if each == stride) for stride in set(strides))
    return {"architecture": source.trunk.model.pretrained_cfg["architecture"], "out_indices": stages}


def _inherit_stem(stages: Stages, source: Teacher, teacher: Teacher) -> None:
    """Put the weights of a tower's first stages into the student's, and try whether they give the tower's maps."""
    assert source.trunk is not None
    own, weights = stages.net.model, source.trunk.model.state_dict()
    with translated("stem: the tower's weights"):
        own.load_state_dict({name: weights[name] for name in own.state_dict() if name in weights})
    # A student's images are the teacher's: x = (pixel - mean) / std.
    mean, std, own_mean, own_std = (
        torch.tensor(values).expand(3)[:, None, None]
        for processor in (teacher.image_processor, source.image_processor)
        for values in (processor.image_mean, processor.image_std)
    )
    stages.scale.copy_(std / own_std)
    stages.shift.copy_((mean - own_mean) / own_std)
    side = source.image_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(stages.net(image), source.trunk.with_maps(image, stages.net.out_indices)[1], strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            raise ValueError("stem: timm's model of this name has other maps; the tower was made with other arguments")


def _cortex(teacher: Teacher, options: StudentOptions, source: Teacher) -> tuple[int, int, dict[str, Any]]:
    """Width and depth of the cortex, and the fields of the configuration that it and the head ask for."""
    new_projection = {"projection_dim": teacher.embed_dim, "projection_bias": True}
    if source.blocks is not None and not options.new_cortex:
        if options.width is not None or options.depth is not None:
            raise ValueError("width and depth are those of the inherited blocks; leave them out, or set inherit=false")
        first = options.resolve_first_block(source)
        fields = source.blocks.fields if source is teacher else source.blocks.fields | new_projection
        return source.blocks.width, source.num_blocks - first, fields
    if options.new_cortex and options.depth is None:
        raise ValueError("width: set depth as well")
    if options.width is None or options.depth is None:
        raise TeacherError(
            f"no blocks can be inherited: {source.unsupported}; take another ViT's (init_from), or set width and depth "
            "of new ones"
        )
    return options.width, options.depth, {"attention_head_dim": 64, **new_projection}


@torch.no_grad()
def build_student(
    teacher: Teacher,
    options: StudentOptions | None = None,
    init_from: Teacher | None = None,
    stem_from: Teacher | None = None,
) -> SparseFormerVisionModel:
    """A student of ``teacher``, its cortex inherited, its focusing transformer new.

    Args:
        teacher: its embedding is what the student is to give.
        options: how the student is built.
        init_from: another ViT whose blocks, final norm and pooling become the cortex; the projection from there to the
            teacher's embedding is new.
        stem_from: whose first stages become the stem, the teacher or another; None: an early convolution, new.

    Raises:
        ValueError: if an option does not fit the teacher; as a TeacherError if there are no blocks to inherit.
        RuntimeError: if a weight has no place in the student (strict loading).
    """
    options, source = options or StudentOptions(), init_from or teacher
    student = SparseFormerVisionModel(student_config(teacher, options, init_from, stem_from))
    if stem_from is not None and student.inherited_stem is not None:
        _inherit_stem(student.inherited_stem.stages, stem_from, teacher)
    if source.blocks is None or options.new_cortex:
        return student
    if options.inherit:
        first = options.resolve_first_block(source)
        for offset, unit in enumerate(student.cortex):
            unit.load_state_dict(source.blocks.weights(first + offset))
    # The teacher's final norm and projection define the space in which the student is compared: always inherited.
    for name, weights in source.blocks.head.items():
        if source is teacher or name != "projection":
            student.head[name].load_state_dict(weights)
    return student

"""Build the student: a SparseFormer that inherits the later blocks of its teacher.

Blocks [0, L/3) are dropped, blocks [L/3, L) with the final norm and the projection become the cortex
(Bootstrapping SparseFormers, CVPR 2024, arXiv 2312.01987).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encoder.configuration import SparseFormerConfig, bootstrapped_units
from encoder.modeling import SparseFormerVisionModel
from encoder.teachers import Teacher


@dataclass
class StudentOptions:
    """How a student differs from its teacher. None takes the published rule."""

    # Tokens, the class token counted; None: a quarter of the teacher's.
    num_tokens: int | None = None
    # First inherited block; None: L/3.
    first_block: int | None = None
    # Width of the repeated focusing unit; None: half the teacher's.
    focus_width: int | None = None
    # Runs of the repeated focusing unit.
    repeats: int = 4
    # Points that each token reads.
    num_sampling_points: int = 16
    # Channels of the early feature map.
    early_channels: int = 64
    # Inner width of the mixing weights' generator.
    mixing_hidden_size: int = 128
    # Whether the cortex starts from the teacher's blocks, or from nothing (to measure what inheriting is worth).
    inherit: bool = True

    def resolve_first_block(self, teacher: Teacher) -> int:
        """Index of the first inherited block; raises ValueError if it leaves no cortex."""
        first = teacher.num_blocks // 3 if self.first_block is None else self.first_block
        if not 0 <= first < teacher.num_blocks:
            raise ValueError(f"first_block={first}: the teacher has blocks 0 to {teacher.num_blocks - 1}")
        return first


def student_config(teacher: Teacher, options: StudentOptions) -> SparseFormerConfig:
    """The configuration of a student of this teacher; raises ValueError naming a field that does not fit."""
    first = options.resolve_first_block(teacher)
    tokens = max(2, teacher.num_tokens // 4) if options.num_tokens is None else options.num_tokens
    if tokens < 2:
        raise ValueError(f"num_tokens={tokens}: at least two are needed, a class token and one that looks")
    head_dim = teacher.width // teacher.num_heads
    focus_width = options.focus_width or teacher.width // 2
    return SparseFormerConfig(
        units=bootstrapped_units(focus_width, teacher.width, teacher.num_blocks - first, options.repeats),
        num_latent_tokens=tokens - 1,
        num_sampling_points=options.num_sampling_points,
        early_channels=options.early_channels,
        mixing_hidden_size=options.mixing_hidden_size,
        attention_head_dim=head_dim,
        mlp_ratio=teacher.mlp_ratio,
        hidden_act=teacher.hidden_act,
        layer_norm_eps=teacher.norm_eps,
        projection_dim=teacher.embed_dim,
        projection_bias=teacher.projection_bias,
        image_size=teacher.image_size,
    )


@torch.no_grad()
def build_student(teacher: Teacher, options: StudentOptions | None = None) -> SparseFormerVisionModel:
    """A student of ``teacher``, its cortex inherited, its focusing transformer new.

    Raises:
        ValueError: if an option does not fit the teacher.
        RuntimeError: if a weight has no place in the student (strict loading).
    """
    options = options or StudentOptions()
    student = SparseFormerVisionModel(student_config(teacher, options))
    first = options.resolve_first_block(teacher)
    if options.inherit:
        for offset, unit in enumerate(student.cortex):
            unit.load_state_dict(teacher.block_weights(first + offset))
    # The final norm and the projection define the space in which the student is compared: always the teacher's.
    head = teacher.head_weights()
    student.norm.load_state_dict({name[5:]: value for name, value in head.items() if name.startswith("norm.")})
    assert student.projection is not None  # every teacher has a representation of some width
    student.projection.load_state_dict({name[11:]: v for name, v in head.items() if name.startswith("projection.")})
    return student

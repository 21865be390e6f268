"""What a student has in training alone: a head for each teacher in whose space its own embedding is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from safetensors.torch import save_file
from torch import Tensor, nn

from encoder.bootstrapping.losses import Answer
from encoder.bootstrapping.objectives import Objective
from encoder.clip import load_tower
from encoder.configuration import SparseFormerConfig
from encoder.geometry import roi_features
from encoder.heads.grid import affinity
from encoder.modeling import SparseFormerOutput, SparseFormerPreTrainedModel, SparseFormerVisionModel
from encoder.weights import check_weights, read_weights

HEADS = "heads.safetensors"
"""The file beside the student in the folder of a stage."""


class Head(nn.Module):
    """What a student says in the terms of one teacher, on the teacher's balanced scale."""

    def __init__(self, config: SparseFormerConfig, objective: Objective):
        super().__init__()
        pooled = config.attention_pool["width"] if config.attention_pool else config.hidden_size
        widths = {} if objective.own else objective.reads
        self.embedding = self.patches = None
        if "embedding" in widths:
            self.embedding = _perceptron(pooled, widths["embedding"])
        if "tokens" in objective.losses and widths:
            self.patches = _perceptron(config.hidden_size, widths["patches"])
        self.decoder = None
        if "grid" in objective.losses:
            self.decoder = GridDecoder(config, objective.reads["patches"])
        self.places, self.own = "places" in objective.losses, objective.own

    def forward(self, outputs: SparseFormerOutput, grid: Tensor | None = None) -> Answer:
        """The student's outputs -> those in the terms of the teacher; the RoIs stay.

        Args:
            grid: (M, 4), where the teacher's patches are.
        """
        assert outputs.last_hidden_state is not None
        assert outputs.rois is not None
        latent = outputs.last_hidden_state[:, -outputs.rois.shape[1] :]
        decoded = None if self.decoder is None else self.decoder(latent, outputs.rois, grid)
        if self.own:
            return Answer(**outputs, grid=decoded)
        return Answer(
            grid=decoded,
            image_embeds=None if self.embedding is None else self.embedding(outputs.pooler_output),
            token_embeds=None if self.embedding is None or not self.places else self.embedding(latent),
            hidden_states=None if self.patches is None else (self.patches(latent),),
            rois=outputs.rois,
        )


class GridDecoder(nn.Module):
    """A teacher's grid of patches, each of which asks the tokens, by where both are, and how well a RoI tells of it."""

    def __init__(self, config: SparseFormerConfig, out: int):
        super().__init__()
        width = config.hidden_size
        self.place, self.roi = nn.Linear(width, width), nn.Linear(width, width)
        self.attention = nn.MultiheadAttention(width, config.heads(width), batch_first=True)
        self.out = _perceptron(width, out)

    def forward(self, tokens: Tensor, rois: Tensor, grid: Tensor) -> Tensor:
        """Tokens (B, N, D), their RoIs (B, N, 4), where the patches are (M, 4) -> patches (B, M, out)."""
        rois, width = rois.detach(), tokens.shape[-1]
        asked = self.place(roi_features(grid, width).to(tokens.dtype)).expand(len(tokens), -1, -1)
        told = tokens + self.roi(roi_features(rois, width).to(tokens.dtype))
        bias = affinity(rois, grid).to(tokens.dtype).repeat_interleave(self.attention.num_heads, dim=0)
        read, _ = self.attention(asked, told, tokens, attn_mask=bias, need_weights=False)
        decoded: Tensor = self.out(asked + read)
        return decoded


def _perceptron(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))


class StudentWithHeads(SparseFormerPreTrainedModel):
    """A student and its heads as one model, so that whatever wraps, splits or saves it does so with both.

    Args:
        student: as it is.
        objectives: of its teachers; not kept.
    """

    def __init__(self, student: SparseFormerVisionModel, objectives: Sequence[Objective]):
        super().__init__(student.config)
        self.student = student
        self.keys = [each.key for each in objectives]
        config = cast(SparseFormerConfig, student.config)
        self.heads = nn.ModuleDict({each.key: Head(config, each) for each in objectives if _has_head(each)})
        self.post_init()  # of the heads; the student has its weights

    def forward(self, grids: Mapping[str, Tensor] | None = None, **inputs: object) -> tuple[SparseFormerOutput, ...]:
        """Looks at images as `SparseFormerVisionModel` does, and says what it has seen in the terms of each teacher.

        Args:
            grids: where the patches of a teacher are, (M, 4), if its head rebuilds them.
        """
        outputs, grids = self.student(**inputs), grids or {}
        return tuple(self.heads[key](outputs, grids.get(key)) if key in self.heads else outputs for key in self.keys)


Trained: TypeAlias = SparseFormerVisionModel | StudentWithHeads


def _has_head(objective: Objective) -> bool:
    return (bool(objective.reads) and not objective.own) or "grid" in objective.losses


def with_heads(student: SparseFormerVisionModel, objectives: Sequence[Objective]) -> Trained:
    """The student with a new head for each teacher that needs one; if none does, the student itself."""
    return StudentWithHeads(student, objectives) if any(map(_has_head, objectives)) else student


def without_heads(model: Trained) -> SparseFormerVisionModel:
    """The student itself."""
    return model.student if isinstance(model, StudentWithHeads) else model


def save_student(folder: Path, model: Trained) -> None:
    """Writes a student as `load_tower` reads it, and its heads, if any, beside it."""
    without_heads(model).save_pretrained(folder)
    if isinstance(model, StudentWithHeads):
        weights = {name: weight.detach().cpu().contiguous() for name, weight in model.heads.state_dict().items()}
        save_file(weights, folder / HEADS, metadata={"format": "pt"})


def load_student(folder: Path, objectives: Sequence[Objective]) -> Trained:
    """Reads what `save_student` has written.

    Raises:
        WeightsError: it is damaged, or the heads are of other teachers.
    """
    model = with_heads(load_tower(folder), objectives)
    if isinstance(model, StudentWithHeads):
        weights = read_weights(folder / HEADS)
        own = model.heads.state_dict()
        check_weights(str(folder / HEADS), weights, {name: tuple(weight.shape) for name, weight in own.items()})
        model.heads.load_state_dict(weights)
    return model

"""What is done beside training: the RoIs of the student are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TrainerCallback, TrainingArguments

from encoder.image_processing import SparseFormerImageProcessor
from encoder.modeling import SparseFormerVisionModel
from encoder.visualize import save_png, stack, visualize


class DrawRois(TrainerCallback):
    """Every so many steps a PNG of the RoIs on the same few images: ``PREFIX-STEP.png``.

    Args:
        student: as it trains, not wrapped.
        image_processor: of the student's images.
        images: drawn below each other.
        prefix: folder and beginning of the files' names.
        every: steps between two drawings.
        num_tokens: that the student looks with, the class token counted; None: its own.
    """

    def __init__(
        self,
        student: SparseFormerVisionModel,
        image_processor: SparseFormerImageProcessor,
        images: Sequence[Image.Image],
        prefix: Path,
        every: int,
        num_tokens: int | None = None,
    ):
        self.student, self.image_processor, self.images = student, image_processor, images
        self.prefix, self.every, self.num_tokens = prefix, every, num_tokens

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero or state.global_step % self.every:
            return
        was_training = self.student.training
        self.student.eval()
        drawings = [visualize(self.student, self.image_processor, image, self.num_tokens) for image in self.images]
        self.student.train(was_training)
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        save_png(stack(drawings), self.prefix.with_name(f"{self.prefix.name}-{state.global_step:06d}.png"))

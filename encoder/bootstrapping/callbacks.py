"""What is done beside training: a moving average of the student's weights is kept, its RoIs are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainingArguments

from encoder.errors import WeightsError
from encoder.image_processing import SparseFormerImageProcessor
from encoder.modeling import SparseFormerVisionModel
from encoder.visualize import save_png, stack, visualize
from encoder.weights import read_weights

FILE = "average.safetensors"  # in a checkpoint


class StudentAverage(TrainerCallback):
    """average += (1 - d) * (student - average) after each optimizer step, d = min(decay, (1 + n) / (10 + n)) at step n.

    So the first steps, taken with hardly trained weights, are soon forgotten. The average stays in the type that the
    student had when this was made, whatever DeepSpeed turns that into.

    Args:
        student: averaged from here on; not wrapped.
        decay: in (0, 1), such as 0.999.
    """

    def __init__(self, student: nn.Module, decay: float):
        def update(average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
            kept = min(decay, (1 + int(count)) / (10 + int(count)))
            return torch.lerp(average, value.to(average.dtype), 1 - kept)

        self.student = student
        self.averaged = AveragedModel(student, avg_fn=update)

    @property
    def model(self) -> Any:
        """The averaged student."""
        return self.averaged.module

    def save(self, checkpoint: str | Path) -> None:
        """Write it into the folder of a checkpoint."""
        weights = {name: value.contiguous() for name, value in self.averaged.state_dict().items()}
        save_file(weights, Path(checkpoint) / FILE)

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if args.resume_from_checkpoint:
            path = Path(args.resume_from_checkpoint) / FILE
            if not path.is_file():
                raise WeightsError(f"{path}: no such file; the interrupted run kept no average: go on without ema")
            self.averaged.load_state_dict(read_weights(path))

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self.averaged.update_parameters(self.student)


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

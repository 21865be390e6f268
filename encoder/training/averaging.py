"""A moving average of the weights beside a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainingArguments

from encoder.errors import WeightsError
from encoder.weights import read_weights

FILE = "average.safetensors"  # in a checkpoint


class WeightAverage(TrainerCallback):
    """average += (1 - d) * (model - average) after each optimizer step, d = min(decay, (1 + n) / (10 + n)) at step n.

    So the first steps, taken with hardly trained weights, are soon forgotten. The average stays in the type that the
    model had when this was made, whatever DeepSpeed turns that into.

    Args:
        model: averaged from here on; not wrapped.
        decay: in (0, 1), such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float):
        def update(average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
            kept = min(decay, (1 + int(count)) / (10 + int(count)))
            return torch.lerp(average, value.to(average.dtype), 1 - kept)

        self.trained = model
        self.averaged = AveragedModel(model, avg_fn=update)

    @property
    def model(self) -> Any:
        """The averaged model."""
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
        self.averaged.update_parameters(self.trained)


class AveragedTrainer(Trainer):
    """A Trainer that may keep a moving average of a model's weights, in its checkpoints too."""

    average: WeightAverage | None = None

    @property
    def result(self) -> Any:
        """What the training is for: the averaged model where one is kept, else the model."""
        return self.model if self.average is None else self.average.model

    def keep_average(self, model: nn.Module, decay: float | None) -> None:
        """Averages what it trains, or a part of it, from here on; None: does not."""
        if decay is not None and self.args.should_save:  # by the process that saves; they all have the same weights
            self.average = WeightAverage(model, decay)
            self.average.averaged.to(self.args.device)
            self.add_callback(self.average)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints hold the average too; it is written before the file that makes a checkpoint complete."""
        super().save_model(output_dir, _internal_call)
        if self.average is not None:
            self.average.save(output_dir or str(self.args.output_dir))

"""The Trainer of tuning: learning rates by part, batches of like length, directories that can move."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from data.files import write_json
from mllm.finetuning.freezing import model_parts
from mllm.loading import ADAPTER_CONFIG, is_adapter, read_config
from mllm.prompts import IGNORE
from mllm.reference import keep_reference, leave_out_language_model


class FinetuneTrainer(Trainer):
    """The Trainer with learning rates by part, a frozen encoder at rest, and directories that can move.

    Args:
        base: directory of the model that training starts from, to which an adapter belongs.
        refers: leave the language model out of what is saved, and refer to it as the base does.
        learning_rates: by part, where it is not the arguments'.
    """

    def __init__(
        self, *, base: Path, refers: bool = False, learning_rates: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        cache_again(self.model)
        self.base, self.refers = base, refers
        if refers:
            leave_out_language_model(self.model)
        self.learning_rates = dict(learning_rates or {})

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        tower = model_parts(self.model)["encoder"]
        if not any(p.requires_grad for p in tower.parameters()):
            tower.eval()  # drop path is for training: a frozen encoder sees as it will when it answers
        # A cache is of no use here, and with one transformers does not keep packed samples apart. In front of the first
        # answer, where the image is, nothing is predicted, so no logits are needed: a fifth of a small model's time.
        labels = inputs["labels"]
        count = labels.shape[1] - max(0, int((labels != IGNORE).any(dim=0).nonzero()[0]) - 1)
        inputs = {**inputs, "labels": labels[:, -count:], "logits_to_keep": count, "use_cache": False}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None or not self.learning_rates:
            return super().create_optimizer(model)
        whole: Any = self.model if model is None else model
        decay = set(self.get_decay_parameter_names(whole))
        parts = model_parts(whole)
        rates = {id(p): rate for part, rate in self.learning_rates.items() for p in parts[part].parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad:
                rate = rates.get(id(parameter), self.args.learning_rate)
                groups.setdefault((rate, self.args.weight_decay if name in decay else 0.0), []).append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, whole)
        self.optimizer = kind(
            [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()], **options
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthSampler(step, dataset.lengths(), seed, lambda: int(self.state.epoch or 0))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer does, but nothing of this machine stays in the directory: no pickle, no absolute path."""
        super().save_model(output_dir, _internal_call)
        directory = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            (directory / "training_args.bin").unlink(missing_ok=True)
            if is_adapter(directory):
                (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card with the base's path
                point_to_base(directory, self.base)
            elif self.refers:
                keep_reference(directory, self.base)

    def write_result(self, folder: Path) -> None:
        """Writes the result, to be moved into the arguments' output; ZeRO-3 needs every process to take part."""
        stored = read_config(self.base, "model").dtype
        whole: Any = self.model
        for parameter in whole.parameters() if isinstance(stored, torch.dtype) else ():
            # What was read in half precision is not written in float32. Under ZeRO-3 no values are here.
            if not parameter.requires_grad and parameter.is_floating_point() and parameter.numel():
                parameter.data = parameter.data.to(stored)
        self.save_model(str(folder))
        output = Path(str(self.args.output_dir))
        if self.args.should_save:
            if is_adapter(folder):
                point_to_base(folder, self.base, seen_from=output)
            elif self.refers:
                keep_reference(folder, self.base, seen_from=output)


class LengthSampler(LengthGroupedSampler):
    """transformers' sampler, whose order depends on seed and epoch alone: on all processes, and after a resumption.

    Args:
        epoch: the number of the epoch that begins.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch())
        return super().__iter__()


def cache_again(model: Any) -> None:
    """Undoes what the Trainer leaves in a language model's configuration: that it answers without a cache.

    Args:
        model: of transformers, perhaps with peft around it.
    """
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "use_cache"):
            config.use_cache = True


def point_to_base(adapter: Path, base: Path, seen_from: Path | None = None) -> None:
    """Store the base model's place relative to the adapter's, so that both can be moved together."""
    file = adapter / ADAPTER_CONFIG
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = os.path.relpath(base.resolve(), (seen_from or adapter).resolve())
    write_json(file, dict(sorted(config.items())))

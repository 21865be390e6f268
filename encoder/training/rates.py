"""An optimizer whose parameters learn at rates of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer


def optimizer_by_rates(trainer: Trainer, rate_of: Callable[[str], float]) -> torch.optim.Optimizer:
    """The optimizer of the Trainer's arguments; only matrices decay, no gains, biases and scales.

    Args:
        rate_of: name of a parameter that trains -> what the learning rate is multiplied by.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    model: Any = trainer.model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate_of(name), parameter.ndim >= 2), []).append(parameter)
    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    options["lr"] = trainer.args.learning_rate
    optimizer: torch.optim.Optimizer = kind(
        [
            {"params": each, "lr": rate * options["lr"], "weight_decay": decays * trainer.args.weight_decay}
            for (rate, decays), each in groups.items()
        ],
        **options,
    )
    return optimizer

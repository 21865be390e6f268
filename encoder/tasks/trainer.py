"""The Trainer of a task: rates by layer, mixed images, an average of the weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models import group_parameters
from torch import Tensor, nn

from encoder.tasks.build import is_new
from encoder.tasks.recipe import TaskRecipe
from encoder.timm_models import LAYERS
from encoder.training.averaging import AveragedTrainer
from encoder.training.rates import optimizer_by_rates


class TaskTrainer(AveragedTrainer):
    """transformers' Trainer with the recipe's rates, mixing and averaging."""

    def __init__(self, *args: Any, recipe: TaskRecipe, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self.model_accepts_loss_kwargs = False  # a mean over the batch: to be divided by the steps that accumulate
        model = cast(Any, self.model)
        self.mixup: Mixup | None = None
        if recipe.mixes:
            self.mixup = Mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=1.0 if recipe.mixup or recipe.cutmix else 0.0,
                label_smoothing=recipe.label_smoothing,
                num_classes=model.num_labels,
            )
        self.keep_average(model, recipe.ema)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by rate and by weight decay."""
        if self.optimizer is None:
            own = cast(nn.Module, self.model)
            layers = {name: int(layer) for name, layer in group_parameters(own, LAYERS, reverse=True).items()}
            last = max(layers.values())
            self.optimizer = optimizer_by_rates(
                self,
                lambda name: (
                    self.recipe.head_rate
                    if is_new(name, self.recipe.task)
                    else self.recipe.layer_decay ** (last - layers[name])
                ),
            )
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.mixup is None:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        images, targets = self.mixup(inputs["pixel_values"], inputs["labels"])
        outputs = model(pixel_values=images)
        loss: Tensor = SoftTargetCrossEntropy()(outputs.logits.float(), targets)
        return (loss, outputs) if return_outputs else loss

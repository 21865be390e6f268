"""The Trainer of bootstrapping: cosine distance between the student's and the teacher's final representation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from encoder.bootstrapping.stages import Stage
from encoder.modeling import SparseFormerVisionModel
from encoder.teachers import Teacher


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the angle between two representations, averaged: (B, E), (B, E) -> (), in float32."""
    return 1.0 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


class BootstrapTrainer(Trainer):
    """transformers' Trainer with a teacher at its side, which is neither wrapped nor saved.

    Args:
        teacher: moved to the training device; sees the same ``pixel_values`` as the student, unless the batch holds
            ``student_pixel_values``, the same views at another size.
        stage: its learning rates, one per part, and its number of tokens.
        parts: parameters of each part that trains, as `apply_stage` returns them.
    """

    def __init__(self, *args: Any, teacher: Teacher, stage: Stage, parts: dict[str, list[nn.Parameter]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        self.stage, self.parts = stage, parts

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by part and by weight decay: only the weights of Linear and convolution decay."""
        if self.optimizer is None:
            student = cast(PreTrainedModel, self.model)
            decaying = {id(module.weight) for module in student.modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
            groups = []
            for name, parameters in self.parts.items():
                rate = self.stage.learning_rates[name]
                for decays in (True, False):
                    chosen = [p for p in parameters if (id(p) in decaying) == decays]
                    if chosen:
                        decay = self.args.weight_decay if decays else 0.0
                        groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, student)
            options.pop("lr", None)
            self.optimizer = optimizer_class(groups, lr=self.args.learning_rate, **options)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self.compute_loss_context_manager():
            target = self.teacher(inputs["pixel_values"])
            outputs = model(pixel_values=student_pictures(inputs), num_tokens=self.stage.num_tokens)
        loss = cosine_distance(outputs.representation, target)
        return (loss, outputs) if return_outputs else loss


def student_pictures(batch: dict[str, Tensor]) -> Tensor:
    """What the student sees of a batch, (B, 3, H, W): the teacher's pictures where it has none of its own."""
    return batch.get("student_pixel_values", batch["pixel_values"])


@torch.no_grad()
def held_out_cosine(
    student: SparseFormerVisionModel,
    teacher: Teacher,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device,
    num_tokens: int | None = None,
) -> float:
    """Mean cosine of student and teacher over ``batches``, as `BootstrapTrainer` takes them.

    Args:
        num_tokens: that the student looks with, the class token counted; None: its own.
    """
    was_training = student.training
    student.eval().to(device)
    teacher.to(device)
    total, count = 0.0, 0
    for batch in batches:
        ours = student(student_pictures(batch).to(device), num_tokens=num_tokens).representation
        theirs = teacher(batch["pixel_values"].to(device))
        total += F.cosine_similarity(ours.float(), theirs.float(), dim=-1).sum().item()
        count += len(theirs)
    student.train(was_training)
    if not count:
        raise ValueError("no held-out picture: the source is empty")
    return total / count

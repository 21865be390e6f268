"""The Trainer of bootstrapping: a student beside its teachers, losses by name, parts at learning rates of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from encoder.bootstrapping.heads import Trained, save_student
from encoder.bootstrapping.losses import LOSSES, Target
from encoder.bootstrapping.objectives import Objective
from encoder.bootstrapping.stages import Stage
from encoder.modeling import SparseFormerVisionModel
from encoder.teachers import Teacher
from encoder.training.averaging import AveragedTrainer


class BootstrapTrainer(AveragedTrainer):
    """transformers' Trainer with teachers at its side, which are neither wrapped nor saved.

    Args:
        objectives: of each teacher, which is moved to the training device. The student sees the first one's images,
            unless the batch holds ``student_pixel_values``, the same views at another size.
        stage: its learning rates, one per part, and its number of tokens.
        parts: parameters of each part that trains, as `apply_stage` returns them.
        ema: decay of an average of the student's weights, which is then the result; None: keep none.
    """

    def __init__(
        self,
        *args: Any,
        objectives: Sequence[Objective],
        stage: Stage,
        parts: dict[str, list[nn.Parameter]],
        ema: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.objectives, self.stage, self.parts = objectives, stage, parts
        for module in (part for each in objectives for part in (each.teacher, *each.balances.values())):
            module.to(self.args.device)
        names = {name for each in objectives for name in each.losses}
        places = "places" in objectives[0].losses  # those of others come from their heads
        self.extras = {"output_hidden_states": "tokens" in names, "output_token_embeds": places}
        self.tally: dict[str, list[Tensor]] = {}  # each loss, not weighted, since the last time that they were logged
        self.keep_average(cast(PreTrainedModel, self.model), ema)

    def save_result(self, folder: Path) -> None:
        """Writes what the training is for as `load_student` reads it: the student, averaged or not, and its heads."""
        save_student(folder, cast(Trained, self.result))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by part and by weight decay: only the weights of Linear and convolution decay."""
        if self.optimizer is None:
            student = cast(PreTrainedModel, self.model)
            decaying = {id(module.weight) for module in student.modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
            groups = []
            for name, parameters in self.parts.items():
                rate = self.stage.rate(name)
                for decays in (True, False):
                    chosen = [p for p in parameters if (id(p) in decaying) == decays]
                    if chosen:
                        decay = self.args.weight_decay if decays else 0.0
                        groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, student)
            options.pop("lr", None)
            self.optimizer = optimizer_class(groups, lr=self.args.learning_rate, **options)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Of several losses each one's own mean too, over all processes: ``loss_cosine``, ``loss_relational`` …"""
        if "loss" in logs:
            for name, values in self.tally.items():
                mean: Any = self.accelerator.reduce(torch.stack(values).mean(), reduction="mean")
                logs[f"loss_{name}"] = mean.item()
            self.tally.clear()
        super().log(logs, start_time)

    def teach(self, inputs: dict[str, Tensor]) -> list[Target]:
        """What each teacher makes of a batch, as far as the losses read it."""
        # The Trainer leaves autocast to the wrapped student's forward, which the teachers are not part of.
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16
        random = np.random.default_rng((self.args.seed, self.state.global_step, 2))
        with torch.autocast(self.args.device.type, dtype, enabled=self.args.bf16 or self.args.fp16):
            indices = inputs["index"].tolist() if any(each.cached for each in self.objectives) else ()
            return [each.teach(inputs[each.key], random, indices) for each in self.objectives]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self.compute_loss_context_manager():
            targets = self.teach(inputs)
            taught = zip(self.objectives, targets, strict=True)
            grids = {each.key: target.grid for each, target in taught if "grid" in each.losses}
            outputs = model(
                pixel_values=self.stage.resized_at(self.state.global_step, self.args.seed, student_images(inputs)),
                num_tokens=self.stage.tokens_at(self.state.global_step, self.args.seed),
                **self.extras,
                **({"grids": grids} if grids else {}),
            )
        answers = outputs if isinstance(outputs, tuple) else [outputs] * len(targets)
        values, weights = dict[str, Tensor](), list[float]()
        for number, (each, answer, target) in enumerate(zip(self.objectives, answers, targets, strict=True), start=1):
            answer = each.restored(answer)
            for name, weight in each.losses.items():
                values[name if number == 1 else f"{name}_{number}"] = LOSSES[name](answer, target)
                weights.append(weight)
        if len(values) > 1:
            for name, value in values.items():
                self.tally.setdefault(name, []).append(value.detach())
        loss = torch.stack([weight * value for weight, value in zip(weights, values.values(), strict=True)]).sum()
        return (loss, outputs) if return_outputs else loss


def student_images(batch: dict[str, Tensor]) -> Tensor:
    """What the student sees of a batch, (B, 3, H, W): the teacher's images where it has none of its own."""
    return batch.get("student_pixel_values", batch["pixel_values"])


@torch.no_grad()
def held_out_cosine(
    student: SparseFormerVisionModel,
    teacher: Teacher,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device,
    num_tokens: int | None = None,
) -> tuple[float, float]:
    """Mean cosine of student and teacher over ``batches``, as `BootstrapTrainer` takes them.

    Args:
        num_tokens: that the student uses, the class token counted; None: its own.

    Returns:
        the student's, and that of the best constant vector, which has seen nothing of any image.
    """
    was_training = student.training
    student.eval().to(device)
    teacher.to(device)
    total, count, directions = 0.0, 0, torch.zeros(teacher.embed_dim, device=device)
    for batch in batches:
        ours = student(student_images(batch).to(device), num_tokens=num_tokens).embedding
        theirs = teacher(batch["pixel_values"].to(device))
        total += F.cosine_similarity(ours.float(), theirs.float(), dim=-1).sum().item()
        count += len(theirs)
        directions += F.normalize(theirs.float(), dim=-1).sum(dim=0)
    student.train(was_training)
    if not count:
        raise ValueError("no held-out image: the source is empty")
    # The mean of unit vectors points where their mean cosine is greatest, and is as long as that is.
    return total / count, directions.norm().item() / count

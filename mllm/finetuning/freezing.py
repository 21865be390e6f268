"""What a stage of tuning trains: the projector, with it LoRA or the whole language model; the rest is frozen."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from data import InputError
from data.errors import translated
from data.limits import MAX_WIDTH, check_range
from encoder.compat import whole_shape
from mllm.loading import with_adapter
from mllm.tower import tower_blocks

logger = logging.getLogger(__name__)

STAGES = ("projector", "lora", "full")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear, Conv1D)  # Conv1D is how transformers' GPT-2 holds its linear layers


@dataclass
class LoraRecipe:
    """Low-rank adaptation (arXiv 2106.09685)."""

    rank: int = 128
    alpha: int = 256  # the update is scaled by alpha / rank
    dropout: float = 0.05
    targets: str = "language_model"  # all of its linear layers, or a regular expression over names of linear layers
    vision: bool = False  # also on the Linear layers of the encoder's blocks, of a SparseFormer those of its cortex

    def __post_init__(self) -> None:
        check_range("lora: rank", self.rank, 1, MAX_WIDTH)
        check_range("lora: alpha", self.alpha, 1, MAX_WIDTH)
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora: dropout={self.dropout}: at least 0 and less than 1")


def freeze(
    model: PreTrainedModel,
    stage: str,
    lora: LoraRecipe | None = None,
    full_precision: bool = True,
    train_encoder: bool = False,
    adapter: Path | None = None,
) -> PreTrainedModel | PeftModel:
    """Let a stage's parameters train and no others, and log which.

    Args:
        stage: "projector" trains it alone, "lora" with low-rank updates, "full" with the whole language model.
        lora: for stage lora; None for the defaults.
        full_precision: hold what trains in float32 even if the model is in half precision. Not under DeepSpeed, which
            keeps float32 copies itself and wants one dtype.
        train_encoder: in stage full, the encoder too.
        adapter: for stage lora, a directory of an earlier one to go on from.

    Returns:
        the model; in stage lora wrapped by peft.

    Raises:
        InputError: `lora.targets` matches nothing; an adapter that is damaged, or not what `lora` says.
    """
    model.requires_grad_(False)
    parts = model_parts(model)
    totals = {name: count(part.parameters()) for name, part in parts.items()}
    result: PreTrainedModel | PeftModel = model
    if stage == "projector":
        parts["projector"].requires_grad_(True)
    elif stage == "full":
        for name, part in parts.items():
            part.requires_grad_(train_encoder or name != "encoder")
    elif stage == "lora":
        config = lora_config(model, lora or LoraRecipe())
        if adapter is None:
            result = get_peft_model(model, config, autocast_adapter_dtype=False)
        else:
            result = with_adapter(model, adapter, trainable=True)
            if lora not in (None, LoraRecipe()):
                _check_same(adapter, result, config)
        _log_coverage(model_parts(result)["language model"])
    else:
        raise ValueError(f"stage {stage!r} is none; it is one of {', '.join(STAGES)}")
    if full_precision:
        for parameter in result.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    for name, part in model_parts(result).items():
        trains = count(part.parameters(), trained_only=True)
        logger.info("%-14s %14s parameters, %14s train", name, f"{totals[name]:,}", f"{trains:,}" if trains else "none")
    return result


def lora_config(model: PreTrainedModel, lora: LoraRecipe) -> LoraConfig:
    """The recipe's section in peft's words; the projector is trained whole beside it."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in lora_targets(model, lora)),  # as suffixes they match more
        modules_to_save=["multi_modal_projector"],
    )


def _check_same(adapter: Path, model: PeftModel, wanted: LoraConfig) -> None:
    """Raise InputError unless the adapter on the model is configured as wanted."""
    config: Any = model.peft_config["default"]
    for name in ("r", "lora_alpha", "lora_dropout"):
        has, asked = getattr(config, name), getattr(wanted, name)
        if has != asked:
            raise InputError(f"lora: the adapter {adapter} has {name}={has!r}, not {asked!r}; leave the section out")
    tuner: Any = model.base_model
    asked = {name for name, _ in tuner.model.named_modules() if re.fullmatch(str(wanted.target_modules), name)}
    if different := sorted(asked ^ set(tuner.targeted_module_names)):
        raise InputError(
            f"lora: the adapter {adapter} is on other layers than lora.targets and lora.vision say, "
            f"{different[0]} for one; leave the section out"
        )


def lora_targets(model: PreTrainedModel, lora: LoraRecipe) -> list[str]:
    """Names of the linear layers that get LoRA; the projector's never do, since it is trained whole.

    Raises:
        InputError: the recipe's expression is none, or matches no linear layer.
    """
    parts = model_parts(model)
    whole = set(parts["projector"].modules())
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, LINEAR) and module not in whole
    }
    inside = set(parts["language model"].modules())
    if lora.targets == "language_model":  # by what they are: every family has names of its own
        targets = {name for name, module in linear.items() if module in inside}
    else:
        with translated(f"lora.targets: {lora.targets!r} is no regular expression"):
            pattern = re.compile(lora.targets)
        targets = {name for name in linear if pattern.fullmatch(name)}
    if not targets:
        known = [name for name, module in linear.items() if module in inside]
        raise InputError(
            f"lora.targets: {lora.targets!r} matches no linear layer; the first of them are {', '.join(known[:8])}"
        )
    if lora.vision:
        wanted = {module for block in tower_blocks(parts["encoder"]) for module in block.modules()}
        targets |= {name for name, module in linear.items() if module in wanted}
    return [name for name in linear if name in targets]


def _log_coverage(language_model: nn.Module) -> None:
    """How much of the language model LoRA reaches."""
    adapted = [module for module in language_model.modules() if isinstance(module, LoraLayer)]
    inside = {part for module in adapted for part in module.modules()}
    rest = [m for m in language_model.modules() if isinstance(m, LINEAR) and m not in inside]
    logger.info("LoRA on %d of %d linear layers of the language model", len(adapted), len(adapted) + len(rest))
    if stacked := expert_parameters(language_model):
        logger.info("LoRA does not reach the %s parameters of experts", f"{count(iter(stacked)):,}")


def expert_parameters(language_model: nn.Module) -> list[nn.Parameter]:
    """Lists what a mixture of experts holds of them: each layer's are stacked in one parameter, no linear layer's."""
    return [
        parameter
        for module in language_model.modules()
        if not isinstance(module, CONVOLUTIONS)
        for parameter in module.parameters(recurse=False)
        if len(shape := whole_shape(parameter)) > 2 and shape[0] > 1
    ]


def model_parts(model: Any) -> dict[str, Any]:
    """The model's parts by name, also under peft."""
    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner = whole.model
    parts = {"encoder": inner.vision_tower, "projector": inner.multi_modal_projector}
    return {**parts, "language model": inner.language_model, "output head": whole.lm_head}


def count(parameters: Iterator[nn.Parameter], trained_only: bool = False) -> int:
    """Counts values; a parameter that ZeRO-3 has partitioned or that is held in 4 bits counts whole."""
    return sum(whole_shape(each).numel() for each in parameters if each.requires_grad or not trained_only)

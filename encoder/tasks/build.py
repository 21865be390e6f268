"""What a recipe of a task is built into: the encoder with the task's head, and its image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn
from transformers import PreTrainedModel, set_seed

from data.errors import InputError
from data.json_objects import read_object
from encoder import geometry
from encoder.clip import load_tower
from encoder.configuration import SparseFormerConfig
from encoder.heads.classification import SparseFormerForImageClassification
from encoder.heads.detection import SparseFormerForObjectDetection
from encoder.heads.segmentation import SparseFormerForSemanticSegmentation
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from encoder.modeling import SparseFormerVisionModel
from encoder.official import load_official
from encoder.presets import PRESETS
from encoder.tasks.recipe import TaskRecipe

MODELS: dict[str, Any] = {
    "classification": SparseFormerForImageClassification,
    "segmentation": SparseFormerForSemanticSegmentation,
    "detection": SparseFormerForObjectDetection,
}
_ADAPTED = r".*\.layers\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"


def is_dense(recipe: TaskRecipe) -> bool:
    """Whether the recipe's encoder is a teacher, and no SparseFormer."""
    if recipe.task != "segmentation" or recipe.encoder in PRESETS:
        return False
    file = Path(recipe.encoder) / "config.json"
    return not file.is_file() or read_object(file, "config.json").get("model_type") != SparseFormerConfig.model_type


def load_encoder(
    recipe: TaskRecipe, random: bool = False
) -> tuple[SparseFormerVisionModel, SparseFormerImageProcessor]:
    """The SparseFormer that the recipe names, and the processor of the task's images.

    Args:
        random: leave the weights of a published one at their random start; nothing is downloaded.
    """
    if recipe.encoder in PRESETS:
        processor = SparseFormerImageProcessor.for_preset(recipe.encoder)
        tower = (
            SparseFormerVisionModel(SparseFormerConfig(**PRESETS[recipe.encoder].config))
            if random
            else load_official(recipe.encoder)
        )
    else:
        tower = load_tower(recipe.encoder).float()
        processor = load_image_processor(Path(recipe.encoder), SparseFormerImageProcessor)
    return tower, task_processor(recipe, processor)


def task_processor(recipe: TaskRecipe, processor: SparseFormerImageProcessor) -> SparseFormerImageProcessor:
    """An encoder's processor at the recipe's size; whole images but for classification."""
    side = recipe.image_size or processor.output_size[0]
    if recipe.task == "classification":
        return processor.resized(side)
    squash = {**processor.to_dict(), "size": {"height": side, "width": side}, "do_center_crop": False}
    return SparseFormerImageProcessor(**{name: value for name, value in squash.items() if value is not None})


def build_model(recipe: TaskRecipe, tower: SparseFormerVisionModel, names: list[str], side: int) -> PreTrainedModel:
    """The encoder under the task's head; what is new starts from the recipe's seed.

    Raises:
        InputError: the encoder cannot have so many tokens, or an option does not fit it.
    """
    set_seed(int(recipe.trainer.get("seed", 42)))  # the same on every process
    before, tokens = tower.config, recipe.num_tokens or tower.config.num_tokens
    changes: dict[str, Any] = {
        "num_latent_tokens": tokens - before.class_token,
        "image_size": side,
        "drop_path_rate": recipe.drop_path,
        "decoder": recipe.decoder,
        "decoder_width": recipe.decoder_width,
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    try:
        model: PreTrainedModel = MODELS[recipe.task](SparseFormerConfig.from_dict({**before.to_dict(), **changes}))
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error
    weights = tower.state_dict()
    if tokens != before.num_tokens:
        weights["latent.rois"] = _start(tower, tokens - before.class_token)
    ours: Any = model.sparseformer
    known = before.num_labels == len(names) == before.projection_dim and before.projection_bias  # these classes, say
    if recipe.task != "classification" or not known:
        weights = {name: weight for name, weight in weights.items() if not name.startswith("projection.")}
        weights |= {name: weight for name, weight in ours.state_dict().items() if name.startswith("projection.")}
    ours.load_state_dict(weights)
    return model


def _start(tower: SparseFormerVisionModel, count: int) -> torch.Tensor:
    """RoIs that another number of tokens starts from: the learned ones as far as they are nested, new ones behind."""
    config = tower.config
    if not config.shared_embedding:
        raise InputError(f"num_tokens: each of the encoder's {config.num_tokens} tokens has an embedding of its own")
    rois = (geometry.nested_rois if config.nested_tokens else geometry.initial_rois)(count)
    if config.nested_tokens:
        own = tower.latent.rois.detach()[:count]
        rois[: len(own)] = own
    return rois


def is_new(name: str, task: str) -> bool:
    """Whether a parameter belongs to the head."""
    return not name.startswith(("sparseformer.", "teacher.")) or (task == "classification" and ".projection." in name)


def freeze(recipe: TaskRecipe, model: nn.Module) -> LoraModel | None:
    """Freezes what does not train; the low-rank updates, if the recipe asks for them, which then are in the model."""
    tuner = None
    if recipe.lora_rank:
        options = LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=_ADAPTED)
        tuner = LoraModel(model, options, "default")
    for name, parameter in model.named_parameters():
        if is_new(name, recipe.task):
            parameter.requires_grad_(True)
        elif not recipe.train_encoder or name.startswith("teacher."):
            parameter.requires_grad_(False)
    return tuner

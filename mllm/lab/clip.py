"""A small CLIP, trained on scenes and their captions with open_clip's model classes and loss.

It stands in for a published CLIP where there is none: the result is an ordinary open_clip folder, which
`open_clip.create_model_and_transforms("local-dir:FOLDER")` loads.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from data.errors import InputError, translated
from data.limits import MAX_SAMPLES, MAX_SIDE, MAX_WIDTH, check_range
from data.sources import LabeledImages
from data.synthetic.captions import CLASS_NAMES, TEMPLATES, TEXT_NAMES, TEXT_TEMPLATES
from data.synthetic.datasets import SceneCaptions, SceneTexts, ZeroShotScenes
from data.synthetic.scene import SceneConfig
from encoder.evaluation.embedding import Runtime
from encoder.evaluation.zeroshot import zero_shot_accuracy
from encoder.training.arguments import check_trainer, samples_per_run
from encoder.training.recipes import check_keys
from encoder.training.spine import started

logger = logging.getLogger(__name__)

# The scenes are random by themselves, and images of one thing come first.
TAKEN_IN_ORDER = {"remove_unused_columns": False, "train_sampling_strategy": "sequential"}
WEIGHTS = "open_clip_model.safetensors"
MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound (arXiv 2103.00020, section 2.5)


@dataclass
class ClipRecipe:
    """The `model_cfg` of an open_clip folder."""

    embed_dim: int  # E, width of the space that images and texts share
    vision_cfg: dict[str, Any]  # fields of open_clip.model.CLIPVisionCfg
    text_cfg: dict[str, Any]  # fields of open_clip.model.CLIPTextCfg
    quick_gelu: bool = False  # as OpenAI's weights have it

    def __post_init__(self) -> None:
        check_keys("model.vision_cfg", self.vision_cfg, [f.name for f in fields(CLIPVisionCfg)])
        check_keys("model.text_cfg", self.text_cfg, [f.name for f in fields(CLIPTextCfg)])
        for part, cfg in (("vision_cfg", self.vision_cfg), ("text_cfg", self.text_cfg)):
            for name, value in cfg.items():
                for number in value if isinstance(value, list) else [value]:
                    if type(number) is int:
                        least, most = (1, MAX_SIDE) if name == "image_size" else (0, 2**20)
                        check_range(f"model.{part}.{name}", number, least, most)
        check_range("model.embed_dim", self.embed_dim, 1, MAX_WIDTH)
        for name in ("timm_model_name", "hf_model_name"):
            if self.vision_cfg.get(name) or self.text_cfg.get(name):
                raise InputError(f"model: {name}: the teacher is trained from nothing with open_clip's own towers")


@dataclass
class TeacherRecipe:
    """What `mllm train-clip` reads."""

    output: str  # the open_clip folder to write; checkpoints of an unfinished run lie in it too
    model: ClipRecipe
    init_from: str | None = None  # another result to start from, of the same model, perhaps on smaller images
    scenes: SceneConfig = field(default_factory=SceneConfig)  # the images
    mean: list[float] = field(default_factory=lambda: list(open_clip.OPENAI_DATASET_MEAN))  # of the channels, in [0, 1]
    std: list[float] = field(default_factory=lambda: list(open_clip.OPENAI_DATASET_STD))
    # Colors, places and words soon tell the captions of a batch apart, and then shapes are hardly learned. So the run
    # begins with images of one thing, captioned by it alone, for this fraction of the steps …
    one_thing_first: float = 0.4
    # … and this fraction of the images after that are of the same kind, the rest whole scenes.
    one_thing_fraction: float = 0.3
    # Of the images of one thing, this fraction shows a word or number, the rest an object (its color and shape).
    text_fraction: float = 0.25
    zero_shot_images: int = 1000  # held-out images that the result is scored on
    trainer: dict[str, Any] = field(default_factory=dict)  # fields of transformers.TrainingArguments

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise InputError(f"{name}: expected three numbers, one per channel")
        for name in ("one_thing_first", "one_thing_fraction", "text_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: a fraction between 0 and 1")
        if min(self.std) <= 0:
            raise InputError(f"std={self.std}: channels are divided by them; choose more than 0")
        check_range("zero_shot_images", self.zero_shot_images, 1, MAX_SAMPLES)
        check_trainer(self.trainer)


class TeacherScenes(Dataset):
    """``count`` images with captions, to be taken in order: ``first`` of one thing and its name, then ``fraction`` of
    them such, the rest whole scenes. ``text_fraction`` of those things are words or numbers, the rest objects."""

    def __init__(self, count: int, config: SceneConfig, first: int, fraction: float, text_fraction: float) -> None:
        self.count, self.first, self.fraction, self.text_fraction = count, first, fraction, text_fraction
        self.scenes = SceneCaptions("train", count, config)
        self.objects = ZeroShotScenes("train", count, config)
        self.texts = SceneTexts("train", count, config)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        things = self._things_before(index)
        if self._things_before(index + 1) == things:
            return self.scenes[index]
        texts = int(things * self.text_fraction)
        if int((things + 1) * self.text_fraction) > texts:
            return _named(self.texts[texts], TEXT_NAMES, TEXT_TEMPLATES, texts)
        return _named(self.objects[things - texts], CLASS_NAMES, TEMPLATES, things - texts)

    def _things_before(self, index: int) -> int:
        """How many images before ``index`` show one thing: all of the first, then evenly the fraction, rounded down."""
        return min(index, self.first) + int(max(0, index - self.first) * self.fraction)


def _named(item: dict[str, Any], names: Sequence[str], templates: Sequence[str], turn: int) -> dict[str, Any]:
    """A labeled image as one with a caption; all names get one template before the next one has its turn."""
    template = templates[turn // len(names) % len(templates)]
    return {"image": item["image"], "captions": [template.format(names[item["label"]])]}


class ContrastiveModel(nn.Module):
    """A CLIP whose forward is its loss, as the Trainer wants it."""

    def __init__(self, clip: CLIP, rank: int = 0, world_size: int = 1) -> None:
        super().__init__()
        self.clip = clip
        # every process compares its own images with the texts of all
        self.criterion = ClipLoss(
            local_loss=True, gather_with_grad=True, cache_labels=True, rank=rank, world_size=world_size
        )

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """pixel_values (B, 3, H, W), input_ids (B, T) -> {"loss": scalar}"""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        images, texts, scale = self.clip(pixel_values, input_ids)[:3]
        return {"loss": self.criterion(images, texts, scale)}


class ContrastiveTrainer(Trainer):
    """The Trainer with CLIP's rule for weight decay: matrices only, no gains, biases, scales."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


class CaptionCollator:
    """Images and captions -> tensors."""

    def __init__(self, preprocess: Callable[[Any], torch.Tensor], tokenizer: SimpleTokenizer) -> None:
        self.preprocess = preprocess
        self.tokenize = tokenizer  # a "tokenizer" the Trainer would save with every checkpoint

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.stack([self.preprocess(sample["image"]) for sample in samples]),
            "input_ids": self.tokenize([sample["captions"][0] for sample in samples]),
        }


def train_teacher(recipe: TeacherRecipe, resume: bool = False) -> float | None:
    """Trains, saves to `recipe.output`, prints the zero-shot accuracy on held-out objects and words.

    Returns: that on objects, in [0, 1]; None on all processes but the first, and if nothing was left to train.
    """
    with started("train-clip", recipe, {**TAKEN_IN_ORDER, **recipe.trainer}, resume) as run:
        if run.finished:
            return None
        trainer, clip, preprocess_cfg = build(recipe, run.arguments())
        run.fit(trainer)
        run.export(lambda folder: save_open_clip(folder, clip, recipe.model, preprocess_cfg))
        result = measure(recipe, trainer) if run.process.is_main_process else {}
        run.close(**result)
    return result.get("objects")


def build(recipe: TeacherRecipe, training: TrainingArguments) -> tuple[ContrastiveTrainer, CLIP, PreprocessCfg]:
    """The Trainer, and what is saved of it: the CLIP and how its images are made."""
    count = samples_per_run(training)
    # DeepSpeed cannot broadcast a parameter without dimensions
    clip = build_clip(recipe.model, nonscalar_logit_scale=training.deepspeed is not None)
    if recipe.init_from is not None:
        start_from(clip, recipe.init_from)
    preprocess_cfg = PreprocessCfg(size=clip.visual.image_size, mean=tuple(recipe.mean), std=tuple(recipe.std))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (clip.visual, clip)]
    logger.info("teacher: %.2f M parameters, %.2f M of them in the vision tower", sizes[1] / 1e6, sizes[0] / 1e6)
    trainer = ContrastiveTrainer(
        model=ContrastiveModel(clip, training.process_index, training.world_size),
        args=training,
        train_dataset=TeacherScenes(
            count, recipe.scenes, int(count * recipe.one_thing_first), recipe.one_thing_fraction, recipe.text_fraction
        ),
        data_collator=CaptionCollator(
            image_transform_v2(preprocess_cfg, is_train=False), SimpleTokenizer(context_length=clip.context_length)
        ),
    )
    return trainer, clip, preprocess_cfg


def measure(recipe: TeacherRecipe, trainer: ContrastiveTrainer) -> dict[str, float]:
    """Zero-shot accuracies in [0, 1] on held-out "objects" and "texts", which are printed."""
    model: Any = trainer.model
    collator: Any = trainer.data_collator
    images = recipe.zero_shot_images
    held_out = ("validation", images, recipe.scenes)
    objects, texts = (
        zero_shot_accuracy(model.clip, collator.tokenize, collator.preprocess, labeled, Runtime(trainer.args.device))
        for labeled in (
            LabeledImages(ZeroShotScenes(*held_out), CLASS_NAMES, TEMPLATES),
            LabeledImages(SceneTexts(*held_out), TEXT_NAMES, TEXT_TEMPLATES),
        )
    )
    sys.stdout.write(
        f"teacher {recipe.output}: zero-shot accuracy {objects:.1%} on {images} held-out scenes of "
        f"{len(CLASS_NAMES)} objects (chance {1 / len(CLASS_NAMES):.1%}), {texts:.1%} on {images} of "
        f"{len(TEXT_NAMES)} words and numbers (chance {1 / len(TEXT_NAMES):.1%})\n"
    )
    return {"objects": objects, "texts": texts}


def build_clip(model: ClipRecipe, nonscalar_logit_scale: bool = False) -> CLIP:
    """An untrained CLIP.

    Args:
        nonscalar_logit_scale: its logit scale has the shape (1,) instead of ().
    Raises:
        InputError: open_clip cannot build it from these fields.
    """
    config = copy.deepcopy(asdict(model))
    with translated("model: open_clip cannot build it"):
        return CLIP(**config, nonscalar_logit_scale=nonscalar_logit_scale)


def start_from(clip: CLIP, folder: str) -> None:
    """Loads the weights that `save_open_clip` wrote; position embeddings that do not train stay those of the clip.

    Raises:
        InputError: there are none, or of another model.
    """
    with translated(f"init_from: {folder}", "name what mllm train-clip made of the same model"):
        weights = load_file(Path(folder) / WEIGHTS)
        weights["logit_scale"] = weights["logit_scale"].reshape(clip.logit_scale.shape)
        if not clip.visual.positional_embedding.requires_grad:  # whose grid may be another
            weights["visual.positional_embedding"] = clip.visual.positional_embedding
        clip.load_state_dict(weights)


def save_open_clip(folder: Path, clip: CLIP, model: ClipRecipe, preprocess_cfg: PreprocessCfg) -> None:
    """Write the two files of an open_clip folder; the logit scale is a scalar there."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"model_cfg": asdict(model), "preprocess_cfg": asdict(preprocess_cfg)}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

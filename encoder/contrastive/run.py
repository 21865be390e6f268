"""Training a CLIP as a command: recipe in, a directory that open_clip loads out."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from torch.utils.data import Dataset
from transformers import TrainingArguments

from data.bad_samples import BadSamples
from data.errors import InputError
from data.sources import LabeledImages, open_captioned, open_labeled
from encoder.contrastive.data import CaptionCollator, Captioned, Course
from encoder.contrastive.recipe import TrainClipRecipe
from encoder.contrastive.towers import BuiltClip, build, save_open_clip
from encoder.contrastive.trainer import ContrastiveModel, ContrastiveTrainer, EvaluateSometimes, FrozenTexts
from encoder.evaluation.clip_models import Prepare
from encoder.evaluation.embedding import Runtime
from encoder.evaluation.retrieval import recalls, retrieval_ranks
from encoder.evaluation.zeroshot import zero_shot_accuracy
from encoder.training.arguments import samples_per_run, samples_per_step
from encoder.training.images import ImageCollator
from encoder.training.spine import started

logger = logging.getLogger(__name__)

# A `Course` is in the order in which its samples are to be seen.
TAKEN_IN_ORDER = {"remove_unused_columns": False, "train_sampling_strategy": "sequential"}


def train_clip(recipe: TrainClipRecipe, resume: bool = False) -> dict[str, dict[str, Any]]:
    """Trains, saves to ``recipe.output``, prints how well held-out images are told.

    Returns: what `HeldOut.measure` does; {} on all processes but the first, and if nothing was left to train.
    """
    with started("train-clip", recipe, {**TAKEN_IN_ORDER, **recipe.trainer}, resume) as run:
        if run.finished:
            return {}
        training = run.arguments()
        # DeepSpeed cannot broadcast a parameter without dimensions
        built = build(recipe, nonscalar_logit_scale=training.deepspeed is not None)
        held_out = HeldOut.open(recipe, built, training.device)
        trainer = make_trainer(recipe, training, built, run.bad)
        if recipe.evaluation_steps:
            trainer.add_callback(EvaluateSometimes(trainer, recipe.evaluation_steps, held_out.measure))
        run.fit(trainer)
        found: dict[str, dict[str, Any]] = {}
        with trainer.in_evaluation() as clip:
            run.export(lambda folder: save_open_clip(folder, built))
            if run.process.is_main_process:
                found = held_out.measure(clip)
                run.close(**found)
    for source, figures in (pair for task in found.values() for pair in task.items()):
        told = ", ".join(f"{name} {value:.1%}" for name, value in figures.items())
        sys.stdout.write(f"{recipe.output}: {source}: {told}\n")
    return found


def make_trainer(
    recipe: TrainClipRecipe, training: TrainingArguments, built: BuiltClip, bad: BadSamples
) -> ContrastiveTrainer:
    """The Trainer over the recipe's sources; freezes what does not train."""
    clip, teacher, processor = built.clip, built.teacher, built.image_processor
    sizes = [sum(p.numel() for p in part.parameters()) for part in (clip, clip.visual)]
    logger.info("CLIP: %.2f M parameters, %.2f M of them in the image tower", *(size / 1e6 for size in sizes))
    if teacher is not None:
        clip.requires_grad_(False)
        clip.visual.requires_grad_(True)
    if isinstance(clip, open_clip.CustomTextCLIP) and not recipe.train_text:
        clip.text.requires_grad_(False)
        if isinstance(clip.text, HFTextEncoder):
            clip.text.forward = FrozenTexts(clip.text.forward, clip.text.config.pad_token_id)
    model = ContrastiveModel(
        clip,
        training.process_index,
        training.world_size,
        (recipe.text_bank, built.model_cfg["embed_dim"]),
        recipe.freeze_norm_statistics,
    )
    first, second = (processor, None) if teacher is None else (teacher.image_processor, processor)
    images = ImageCollator(first, second, recipe.crop_scale, recipe.flip, recipe.jitter, training.seed)
    return ContrastiveTrainer(
        model=model,
        args=training,
        train_dataset=open_course(recipe, training, clip.visual.image_size, bad),
        data_collator=CaptionCollator(images, built.tokenizer),
        layer_decay=recipe.layer_decay,
        head_rate=recipe.head_rate,
        teacher=teacher,
        ema=recipe.ema,
    )


def open_course(
    recipe: TrainClipRecipe, training: TrainingArguments, image_size: tuple[int, int], bad: BadSamples
) -> Course:
    """All samples of the run: those of the curriculum, then of the recipe's own data."""
    counts = [stage.steps * samples_per_step(training) for stage in recipe.curriculum]
    counts.append(samples_per_run(training) - sum(counts))
    stages = [
        [(Captioned(source, image_size, bad), source.weight) for source in sources if source.weight]
        for sources in (*(stage.data for stage in recipe.curriculum), recipe.data)
    ]
    return Course(list(zip(stages, counts, strict=True)), recipe.shuffle, training.seed)


@dataclass
class HeldOut:
    """What a CLIP is measured on, by source."""

    labeled: dict[str, LabeledImages]
    captioned: dict[str, Dataset[Any]]
    tokenizer: Any
    prepare: Prepare
    runtime: Runtime

    @classmethod
    def open(cls, recipe: TrainClipRecipe, built: BuiltClip, device: torch.device) -> HeldOut:
        """Opens the recipe's; raises InputError for classes without names."""
        labeled = {source: open_labeled(source, image_size=built.clip.visual.image_size) for source in recipe.zero_shot}
        for source, images in labeled.items():
            if images.class_names is None:
                raise InputError(f"zero_shot: {source} knows no names of its classes; give a folder of classes")
        captioned = {source: open_captioned(source) for source in recipe.retrieval}
        return cls(labeled, captioned, built.tokenizer, Prepare(built.image_processor), Runtime(device))

    def measure(self, clip: Any) -> dict[str, dict[str, Any]]:
        """Returns "zero_shot" and "retrieval": source -> figures in [0, 1], "top_1", "image_to_text_r5" and such."""
        found: dict[str, dict[str, Any]] = {"zero_shot": {}, "retrieval": {}}
        for source, images in self.labeled.items():
            found["zero_shot"][source] = zero_shot_accuracy(
                clip, self.tokenizer, self.prepare, images, self.runtime, source
            )
        for source, pairs in self.captioned.items():
            texts, images_, _ = retrieval_ranks(clip, self.tokenizer, self.prepare, pairs, self.runtime, source)
            found["retrieval"][source] = recalls(texts, images_)
        return found

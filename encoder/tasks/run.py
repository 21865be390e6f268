"""A task as a command: recipe in, a model that transformers' Auto classes load out, and how good it is."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, TrainingArguments

from data.bad_samples import BadSamples
from data.errors import InputError, translated
from data.json_objects import read_object
from encoder.image_processing import SparseFormerImageProcessor, load_image_processor
from encoder.tasks.build import MODELS, build_model, freeze, is_dense, is_new, load_encoder, task_processor
from encoder.tasks.data import TaskCollator, TaskImages
from encoder.tasks.dense_teacher import KIND, PatchSegmenter, load_dense
from encoder.tasks.evaluation import measure, metrics_of
from encoder.tasks.recipe import TaskRecipe
from encoder.tasks.trainer import TaskTrainer
from encoder.training.arguments import samples_per_run
from encoder.training.epochs import OfEachEpoch
from encoder.training.spine import started
from encoder.weights import check_report

logger = logging.getLogger(__name__)


def train_task(recipe: TaskRecipe, resume: bool = False) -> dict[str, Any]:
    """Trains, saves the result and prints how good it is, also of a finished run.

    Returns: figures as `measure` has them, by "own" or the number of tokens; {} on all processes but the first.
    """
    with started("train-task", recipe, recipe.settings, resume) as run:
        dense = is_dense(recipe)
        if dense:
            tower: Any = load_dense(recipe.encoder, recipe.image_size)
            processor = task_processor(recipe, tower.image_processor)
        else:
            tower, processor = load_encoder(recipe)
        train = TaskImages(recipe, recipe.train, run.bad, processor.output_size)
        held_out = open_validation(recipe, processor, train.names)
        if not run.finished:
            model: Any = (
                build_model(recipe, tower, train.names, processor.output_size[0])
                if not dense
                else PatchSegmenter(tower, recipe.encoder, train.names, recipe.image_size)
            )
            tuner = freeze(recipe, model)
            trainer = make_trainer(recipe, run.arguments(), model, processor, train)
            run.fit(trainer, parameters=count_parameters(model, recipe.task))
            result: Any = trainer.result if tuner is None else tuner.merge_and_unload()

            def export(folder: Path) -> None:
                result.save_pretrained(folder)
                processor.save_pretrained(folder)

            run.export(export)
        found: dict[str, Any] = {}
        if run.process.is_main_process:
            found = evaluate(recipe, recipe.output, run.training.device, held_out)
            run.close(**found)
    return found


def open_validation(
    recipe: TaskRecipe, processor: SparseFormerImageProcessor, names: list[str] | None = None
) -> TaskImages:
    """The images to measure on. Raises InputError if they are of other classes, or cannot be measured on."""
    images = TaskImages(recipe, recipe.validation, BadSamples(), processor.output_size)
    if names is not None and images.names != names:
        raise InputError(f"validation: {recipe.validation} has other classes than {recipe.train}")
    metrics_of(recipe.task, len(images.names))
    return images


def make_trainer(
    recipe: TaskRecipe,
    training: TrainingArguments,
    model: PreTrainedModel,
    processor: SparseFormerImageProcessor,
    images: TaskImages,
) -> TaskTrainer:
    """The Trainer over the recipe's images."""
    if isinstance(images.dataset, IterableDataset):
        samples_per_run(training)  # raises InputError without max_steps
    collator = TaskCollator(recipe.task, processor, images.class_of, recipe, training.seed)
    return TaskTrainer(
        model=model.train(),
        args=training,
        train_dataset=images.to_train(training.seed),
        data_collator=collator,
        callbacks=[OfEachEpoch(collator)],
        recipe=recipe,
    )


def count_parameters(model: nn.Module, task: str) -> dict[str, dict[str, int]]:
    """All and those that train, of the encoder and of what is new."""
    counted = {part: {"all": 0, "trained": 0} for part in ("encoder", "head")}
    for name, parameter in model.named_parameters():
        part = counted["head" if is_new(name, task) else "encoder"]
        part["all"] += parameter.numel()
        part["trained"] += parameter.numel() * parameter.requires_grad
    return counted


def evaluate(
    recipe: TaskRecipe, directory: str, device: torch.device, images: TaskImages | None = None
) -> dict[str, Any]:
    """Measures a saved model as the recipe says, with all numbers of tokens, and prints a line of each.

    Raises:
        InputError: it is no such model, or of other classes.
    """
    model, processor = load_task_model(recipe.task, directory)
    images = images or open_validation(recipe, processor)
    if model.num_labels != len(images.names):
        classes = len(images.names)
        raise InputError(f"{directory}: tells {model.num_labels} classes apart, {images.source} has {classes}")
    found: dict[str, Any] = {}
    pictures = Path(directory) / "predictions" if recipe.pictures else None
    for tokens in (None, *recipe.report_tokens):
        figures = measure(model, processor, recipe, images, device, tokens, pictures if tokens is None else None)
        found["own" if tokens is None else str(tokens)] = figures
        told = ", ".join(
            f"{name} {value:.1%}"
            for name, value in figures.items()
            if isinstance(value, float) and name != "milliseconds"
        )
        count = tokens or (model.num_tokens if isinstance(model, PatchSegmenter) else model.config.num_tokens)
        with_tokens = f", {count} tokens" if count else ""
        where = f"on {figures['images']} images of {images.source}"
        sys.stdout.write(f"{directory}{with_tokens}, {where}: {told}\n")
    return found


def load_task_model(task: str, directory: str) -> tuple[Any, SparseFormerImageProcessor]:
    """A saved model of a task, whose weights are all there, and its image processor."""
    if not (Path(directory) / "config.json").is_file():
        raise InputError(f"{directory}: is no directory of a model; give what `mllm train-task` has written")
    model: Any
    config = read_object(Path(directory) / "config.json", "config.json")
    if config.get("model_type") == KIND and task == "segmentation":
        model = PatchSegmenter.from_saved(Path(directory), config)
        return model, load_image_processor(Path(directory), SparseFormerImageProcessor)
    with translated(directory):
        model, report = MODELS[task].from_pretrained(
            directory, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    check_report(directory, report, fix=f"give a model of {task}")
    return model, load_image_processor(Path(directory), SparseFormerImageProcessor)

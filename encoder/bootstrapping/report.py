"""What came of bootstrapping: teacher and student side by side on images that no stage has seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from data import open_images, open_labeled
from data.classes import match_classes
from encoder import SparseFormerImageProcessor
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.trainer import held_out_cosine
from encoder.clip import load_clip, load_tower
from encoder.evaluation.clip_models import Prepare
from encoder.evaluation.embedding import Runtime
from encoder.evaluation.zeroshot import class_vectors, zero_shot_accuracy
from encoder.teachers import LoadedTeacher
from encoder.training.images import ImageCollator


def report(recipe: BootstrapRecipe, loaded: LoadedTeacher, device: torch.device) -> dict[str, Any]:
    """Prints held-out cosine and zero-shot accuracy of the saved student beside its teacher's.

    Returns: "num_tokens" of the student, "cosine", "cosine_N" with N of `report_tokens`, "constant_cosine" of one
        vector for all images, and "zero_shot": source -> {"teacher", "student", "student_N"}, accuracies in [0, 1].
    """
    student = load_tower(recipe.output)
    image_processor = SparseFormerImageProcessor.from_pretrained(recipe.output)
    resized = None if image_processor.output_size[0] == loaded.teacher.image_size else image_processor
    collator = ImageCollator(loaded.teacher.image_processor, resized)
    figures: dict[str, Any] = {"num_tokens": student.config.num_tokens, "zero_shot": {}}
    for count in (None, *recipe.report_tokens):
        batches = _held_out(recipe, collator)
        cosine, constant = held_out_cosine(student, loaded.teacher, batches, device, count)
        figures |= {"cosine" if count is None else f"cosine_{count}": cosine, "constant_cosine": constant}
        tower = loaded.teacher.num_tokens or type(loaded.teacher.tower).__name__
        tokens = f"{count or student.config.num_tokens} tokens against {tower}"
        sys.stdout.write(
            f"student {recipe.output}: {tokens}, held-out cosine to its teacher {cosine:.4f} "
            f"(a constant vector: {constant:.4f})\n"
        )
    if loaded.text is None:
        return figures
    student_clip, _, tokenizer = load_clip(recipe.output)
    student_clip.to(device)
    loaded.text.clip.to(device)
    side, runtime = loaded.teacher.image_size, Runtime(device)
    for source in recipe.zero_shot:
        images = open_labeled(source, image_size=(side, side))
        words = match_classes(None, images.class_names, images.numbered).words
        classes = class_vectors(loaded.text.clip, tokenizer, words, images.templates, runtime)  # of both
        prepare = Prepare(loaded.teacher.image_processor)
        theirs = zero_shot_accuracy(loaded.text.clip, tokenizer, prepare, images, runtime, source, classes)["top_1"]
        accuracies = figures["zero_shot"][source] = {"teacher": theirs}
        for count in (None, *recipe.report_tokens):
            student_clip.visual.num_tokens = count
            prepare = Prepare(image_processor)
            ours = zero_shot_accuracy(student_clip, tokenizer, prepare, images, runtime, source, classes)["top_1"]
            accuracies["student" if count is None else f"student_{count}"] = ours
            sys.stdout.write(
                f"zero-shot accuracy on {source}: teacher {theirs:.1%}, "
                f"student{f' with {count} tokens' if count else ''} {ours:.1%} ({ours / max(theirs, 1e-9):.1%} of it)\n"
            )
    return figures


def _held_out(recipe: BootstrapRecipe, collator: ImageCollator) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the first ``held_out_images`` held-out images."""
    left = recipe.held_out_images
    for batch in DataLoader(open_images(recipe.held_out), batch_size=64, collate_fn=collator):
        yield {name: images[:left] for name, images in batch.items()}
        left -= len(batch["pixel_values"])
        if left <= 0:
            return

"""What came of bootstrapping: teacher and student side by side on images that no stage has seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from data import open_images
from data.synthetic import CLASS_NAMES, TEXT_NAMES, SceneConfig
from encoder import SparseFormerImageProcessor
from encoder.bootstrapping.images import ImageCollator
from encoder.bootstrapping.recipe import BootstrapRecipe
from encoder.bootstrapping.trainer import held_out_cosine
from encoder.clip import load_clip, load_tower
from encoder.evaluation.clip_models import Prepare
from encoder.evaluation.zeroshot import scene_accuracies
from encoder.teachers import LoadedTeacher


def report(recipe: BootstrapRecipe, loaded: LoadedTeacher, device: torch.device) -> dict[str, float]:
    """Held-out cosine and zero-shot accuracy of the saved student beside its teacher's, printed and returned."""
    student = load_tower(recipe.output)
    image_processor = SparseFormerImageProcessor.from_pretrained(recipe.output)
    collator = ImageCollator(loaded.teacher.image_processor, image_processor.output_size[0])
    figures: dict[str, float] = {}
    for count in (None, *recipe.report_tokens):
        images = _held_out(recipe, collator)
        cosine, constant = held_out_cosine(student, loaded.teacher, images, device, count)
        figures |= {"cosine" if count is None else f"cosine_{count}": cosine, "constant_cosine": constant}
        tower = loaded.teacher.num_tokens or type(loaded.teacher.tower).__name__
        tokens = f"{count or student.config.num_tokens} tokens against {tower}"
        sys.stdout.write(
            f"student {recipe.output}: {tokens}, held-out cosine to its teacher {cosine:.4f} "
            f"(a constant vector: {constant:.4f})\n"
        )
    if recipe.zero_shot_scenes and loaded.text is not None:
        student_clip, _, tokenizer = load_clip(recipe.output)
        side = loaded.teacher.image_size
        students = [("student", None), *((f"student_{count}", count) for count in recipe.report_tokens)]
        for name, clip, processor, count in (
            ("teacher", loaded.text.clip, loaded.teacher.image_processor, None),
            *((name, student_clip, image_processor, count) for name, count in students),
        ):
            if clip is student_clip:
                student_clip.visual.num_tokens = count
            figures[f"{name}_zero_shot"], figures[f"{name}_texts"] = scene_accuracies(
                clip.to(device),
                tokenizer,
                Prepare(processor),
                "test",
                recipe.zero_shot_scenes,
                SceneConfig(height=side, width=side),
                device,
            )
        for task, classes in (("zero_shot", f"{len(CLASS_NAMES)} objects"), ("texts", f"{len(TEXT_NAMES)} texts")):
            theirs = figures[f"teacher_{task}"]
            for name, count in students:
                ours = figures[f"{name}_{task}"]
                sys.stdout.write(
                    f"zero-shot accuracy on {recipe.zero_shot_scenes} held-out scenes of {classes}: teacher "
                    f"{theirs:.1%}, student{f' with {count} tokens' if count else ''} {ours:.1%} "
                    f"({ours / max(theirs, 1e-9):.1%} of it)\n"
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

"""Where the conversations come from: generated scenes and files in LLaVA's format, mixed as a recipe lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import ConcatDataset

from data import InputError
from data.bad_samples import BadSamples
from data.conversations import load_conversations
from data.scenes import SPLITS, SceneConfig, SceneConversations
from mllm.training.collator import Conversations


def open_conversations(
    sources: Sequence[str],
    image_folder: str | None = None,
    size: tuple[int, int] = (64, 64),
    bad: BadSamples | None = None,
    scene_questions: int = 4,
) -> Conversations:
    """Open one or more sources of conversations as one map-style dataset.

    Args:
        sources: each is `scenes:SPLIT:COUNT[:OBJECTS]`, so many generated scenes of at most OBJECTS objects (6), or the
            path of a JSON file in LLaVA's format.
        image_folder: where the files' pictures lie; None is each file's own directory.
        size: height and width of the generated pictures.
        scene_questions: turns of a conversation about a generated picture.
        bad: where conversations with broken pictures are recorded.
    Raises:
        InputError: no source, one that cannot be read, or one that is written wrongly.
    """
    if not sources:
        raise InputError("data: no source is given; write scenes:train:COUNT or the path of a LLaVA JSON file")
    parts: list[Any] = []
    for source in sources:
        if source.startswith("scenes:"):
            split, count, objects = scenes_source(source)
            config = SceneConfig(height=size[0], width=size[1], max_objects=objects)
            parts.append(SceneConversations(split, count, config, questions_per_scene=scene_questions))
        else:
            parts.append(load_conversations(source, image_folder, bad=bad))
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def scenes_source(source: str) -> tuple[str, int, int]:
    """Split, count and greatest number of objects of `scenes:SPLIT:COUNT[:OBJECTS]`.

    Raises:
        InputError: it is written otherwise.
    """
    _, split, *numbers = source.split(":")
    if split not in SPLITS or len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise InputError(f"data: {source!r} is no source; generated scenes are written scenes:train:COUNT[:OBJECTS]")
    return split, int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else SceneConfig.max_objects


def picture_size(processor: Any) -> tuple[int, int]:
    """Height and width of the pictures that the model sees, from its image processor."""
    image_processor = processor.image_processor
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])

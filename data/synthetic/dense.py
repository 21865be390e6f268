"""Scenes, generated or composed, with a class for every pixel or a box for every thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from data.sources import DenseImages

TEXT_VALUE = 255
"""Of the plate of a text, in a scene's mask."""


class DenseScenes(Dataset[dict[str, Any]]):
    """``{"image", "mask"}``, or ``{"image", "boxes", "labels"}``, as `data.sources.DenseImages` has them.

    Args:
        scenes: whose ``scene(index)`` has an ``image()``, a ``mask()`` and things.
        things: those of a scene, in the order in which the mask counts them.
        class_of: the number of a thing's class.
        text: the class of a text's plate in a mask; None: boxes are asked for.
    """

    def __init__(
        self,
        scenes: Any,
        things: Callable[[Any], Sequence[Any]],
        class_of: Callable[[Any], int],
        text: int | None = None,
    ) -> None:
        self.scenes, self.things, self.class_of, self.text = scenes, things, class_of, text

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene = self.scenes.scene(index)
        things = self.things(scene)
        classes = [self.class_of(thing) for thing in things]
        if self.text is None:
            return {"image": scene.image(), "boxes": [list(thing.box) for thing in things], "labels": classes}
        table = np.zeros(256, np.uint8)
        table[1 : len(classes) + 1] = classes
        table[TEXT_VALUE] = self.text
        return {"image": scene.image(), "mask": Image.fromarray(table[scene.mask()])}


def dense_scenes(
    scenes: Any,
    things: Callable[[Any], Sequence[Any]],
    name_of: Callable[[Any], str],
    names: Sequence[str],
    masks: bool,
) -> DenseImages:
    """Masks count "background" first and "text" last, boxes the names alone."""
    names = ["background", *names, "text"] if masks else list(names)
    numbers = {name: number for number, name in enumerate(names)}
    text = numbers["text"] if masks else None
    return DenseImages(DenseScenes(scenes, things, lambda thing: numbers[name_of(thing)], text), names)

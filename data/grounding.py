"""The boxes and names of a sample, as ms-swift has them: ``objects`` beside the turns, and marks in the words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from data.errors import InputError
from data.messages import Part
from data.places import UNITS

PLACE, NAME = "<bbox>", "<ref-object>"


class RecordedPlace(NamedTuple):
    """A box or a point as ``objects`` gives it."""

    numbers: tuple[float, ...]  # x1, y1, x2, y2 or x, y
    image: int  # the number of its image
    pixels: bool  # of the image as it is opened, upright; or else fractions
    field: str

    def part(self, sizes: Sequence[tuple[int, int]]) -> Part:
        """The part of a message, from the images' widths and heights. Raises InputError if it lies outside."""
        size = sizes[self.image] if self.pixels else (1, 1)
        place = tuple(value / size[axis % 2] for axis, value in enumerate(self.numbers))
        # boxes are often rounded up, or count pixels from 1
        margins = [1 / (side if self.pixels else UNITS) for side in size]
        if any(not -margins[n % 2] <= value <= 1 + margins[n % 2] for n, value in enumerate(place)):
            image = f"its image of {size[0]}x{size[1]} pixels" if self.pixels else "0 to 1, as bbox_type 'norm1' says"
            raise InputError(f"{self.field} is {list(self.numbers)}, outside of {image}; give x1, y1, x2, y2 inside")
        return {"type": "place", "place": tuple(min(max(n, 0.0), 1.0) for n in place), "image": self.image}


def ground(objects: Any, texts: Sequence[str], images: int) -> list[tuple[str, tuple[RecordedPlace, ...]]]:
    """Texts with the names of ``objects`` filled in, and the places for the `PLACE` marks in each.

    Without ``objects`` marks are words like others.

    Args:
        objects: ``{"ref": [names], "bbox": [boxes and points], "image_id": [numbers], "bbox_type": "real" | "norm1"}``,
            of which any may be missing.
        texts: of a sample's turns.
        images: how many it has.

    Raises:
        InputError: they are not of this form, or do not match the marks.
    """
    if not isinstance(objects, dict) or not ("ref" in objects or "bbox" in objects):
        if objects and any(PLACE in text or NAME in text for text in texts):
            raise InputError("objects is not read; give {'ref': [names], 'bbox': [[x1, y1, x2, y2], ...]}")
        return [(text, ()) for text in texts]
    names, boxes, numbers = (objects.get(key) or [] for key in ("ref", "bbox", "image_id"))
    if not all(isinstance(each, list) for each in (names, boxes, numbers)):
        raise InputError("objects: ref, bbox and image_id are lists, of names, of boxes and of numbers; give them so")
    unit = objects.get("bbox_type")
    if unit not in (None, "real", "norm1"):
        raise InputError(f"objects.bbox_type is {unit!r}; give 'real', for pixels, or 'norm1', for 0 to 1")
    named = iter(names)
    _check_count(texts, NAME, "names", names)
    texts = [re.sub(NAME, lambda _: str(next(named)), text) for text in texts]
    _check_count(texts, PLACE, "boxes", boxes)
    places = []
    for index, box in enumerate(boxes):
        field, image = f"objects.bbox[{index}]", numbers[index] if index < len(numbers) else 0
        _check_place(box, field)
        if not isinstance(image, int) or not 0 <= image < images:
            raise InputError(f"{field} is in image {image!r}, and there are {images}, from 0 on; give image_id")
        places.append(RecordedPlace(tuple(box), image, unit != "norm1", field))
    placed = iter(places)
    return [(text, tuple(islice(placed, text.count(PLACE)))) for text in texts]


def _check_count(texts: Sequence[str], mark: str, what: str, given: Sequence[Any]) -> None:
    if (count := sum(text.count(mark) for text in texts)) != len(given):
        raise InputError(f"objects has {len(given)} {what} for {count} {mark}; match them")


def _check_place(box: Any, field: str) -> None:
    if not isinstance(box, list) or len(box) not in (2, 4) or not all(type(n) in (int, float) for n in box):
        raise InputError(f"{field} is {box!r}, no box and no point; give [x1, y1, x2, y2] or [x, y]")
    if not all(map(math.isfinite, box)) or any(low > high for low, high in zip(box[:2], box[-2:], strict=True)):
        raise InputError(f"{field} is {box}, not finite, or ends before it begins; give x1 <= x2 and y1 <= y2")

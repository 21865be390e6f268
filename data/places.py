"""Places in images, boxes and points: as answers write them, and between an image and the part of it that is seen.

In texts a box is ``[x1, y1, x2, y2]`` and a point ``[x, y]``, in whole thousandths of the image's width and height.
Elsewhere they are tuples of as many numbers, in fractions of the image unless another unit is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from data.messages import Part, Place

UNITS = 1000
HIT = 0.5  # intersection over union from which on a box counts as right, as RefCOCO's users have it
WHOLE: Place = (0.0, 0.0, 1.0, 1.0)
"""The view of a model that sees the whole image. A view is the box that a model sees, in fractions of the image."""

_NUMBER = r"(1000|\d{1,3})"
_WRITTEN = re.compile(rf"\[{_NUMBER}, {_NUMBER}(?:, {_NUMBER}, {_NUMBER})?\]")


def write_place(place: Place) -> str:
    """Writes a place as texts have it."""
    return f"[{', '.join(str(min(max(round(UNITS * value), 0), UNITS)) for value in place)}]"


def find_places(text: str, size: tuple[int, int] = (1, 1)) -> list[Place]:
    """Finds the boxes and points of a text, such as an answer.

    Args:
        text: in which they are written as `write_place` does.
        size: width and height of the image in pixels, as PIL has them; by default the places stay fractions.

    Returns:
        (x1, y1, x2, y2) or (x, y) of each, in pixels of the image, in the text's order.
    """
    return [scaled(_read(found), size) for found in _WRITTEN.finditer(text)]


def map_places(text: str, change: Callable[[Place], Place]) -> str:
    """Writes the places of a text anew, each as ``change`` makes it."""
    return _WRITTEN.sub(lambda found: write_place(change(_read(found))), text)


def split_places(text: str, image: int = 0) -> list[Part]:
    """Parts of a message from a text: its places in image number ``image``, and the words between them."""
    parts: list[Part] = []
    start = 0
    for found in _WRITTEN.finditer(text):
        parts += [{"type": "text", "text": text[start : found.start()]}] if found.start() > start else []
        parts.append({"type": "place", "place": _read(found), "image": image})
        start = found.end()
    return [*parts, {"type": "text", "text": text[start:]}] if text[start:] or not parts else parts


def to_view(place: Place, view: Place) -> Place | None:
    """A place of the image in fractions of its view, clipped; None if its center is not seen."""
    width, height = view[2] - view[0], view[3] - view[1]
    seen = tuple((value - view[axis % 2]) / (width, height)[axis % 2] for axis, value in enumerate(place))
    if not all(0 <= (low + high) / 2 <= 1 for low, high in zip(seen[:2], seen[-2:], strict=True)):
        return None
    return tuple(min(max(value, 0.0), 1.0) for value in seen)


def from_view(place: Place, view: Place) -> Place:
    """A place in fractions of a view in fractions of the image."""
    width, height = view[2] - view[0], view[3] - view[1]
    return tuple(view[axis % 2] + value * (width, height)[axis % 2] for axis, value in enumerate(place))


def scaled(place: Place, size: tuple[float, float]) -> Place:
    """A place with x and y multiplied by the two numbers of ``size``."""
    return tuple(value * size[axis % 2] for axis, value in enumerate(place))


def overlap(first: Place, second: Place) -> float:
    """Intersection over union of two boxes; 0 where one of them is a point."""
    if len(first) != 4 or len(second) != 4:
        return 0.0
    sides = [min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis]) for axis in (0, 1)]
    shared = max(sides[0], 0.0) * max(sides[1], 0.0)
    union = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)) - shared
    return shared / union if union > 0 else 0.0


def _read(found: re.Match[str]) -> Place:
    return tuple(int(number) / UNITS for number in found.groups() if number is not None)

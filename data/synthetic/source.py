"""Generated scenes as a source that recipes name: ``scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]``."""

from __future__ import annotations

import re

from data.errors import InputError
from data.synthetic.scene import SceneConfig

FORM = "scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]"


def scenes_source(source: str, size: tuple[int, int] = (64, 64)) -> tuple[str, int, SceneConfig]:
    """Split, number of scenes and their configuration.

    Args:
        source: of the form above; SIZE is ``64`` or ``48x64`` (height first), OBJECTS the most in one scene (6), TEXT
            the share of scenes that have something to read (0.3).
        size: height and width in pixels where the source names none.
    Raises:
        InputError: it is written otherwise.
    """
    split, *numbers = source.split(":")[1:] or [""]
    wholes = [numbers[place] for place in (0, 2) if place < len(numbers)]
    text = numbers[3] if len(numbers) > 3 else str(SceneConfig.text_probability)
    if (
        not 1 <= len(numbers) <= 4
        or not all(re.fullmatch(r"0*[1-9]\d{0,17}", number) for number in wholes)
        or not re.fullmatch(r"\d{,9}\.?\d{1,9}", text)
    ):
        raise InputError(f"{source}: generated scenes are written {FORM}, for example scenes:train:10000:64")
    height, width = parse_size(numbers[1], f"{source}: size") if len(numbers) > 1 else size
    objects = int(numbers[2]) if len(numbers) > 2 else SceneConfig.max_objects
    config = SceneConfig(height=height, width=width, max_objects=objects, text_probability=float(text))
    return split, int(numbers[0]), config


def parse_size(text: str, field: str = "size") -> tuple[int, int]:
    """``"64"`` → (64, 64), ``"48x64"`` → (48, 64): height and width in pixels. Raises InputError naming ``field``."""
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    if not match:
        raise InputError(f"{field}={text}: give pixels, as one number or as HEIGHTxWIDTH")
    return int(match[1]), int(match[2] or match[1])

"""Scenes: what is in a generated image, drawn deterministically from (seed, split, index).

Whatever the seed, the hash of a scene's content decides its split, hence no two splits can share a scene.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import InputError
from data.synthetic.objects import DIRECTIONS, TEXT_MARGIN, Box, Color, SceneObject, palettes, place_objects
from data.synthetic.vocabulary import NUMBERS, SPLITS, TEXTURES, WORDS, below, between, pick, stream

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Of the letters: from about 0.2 on, a ViT with patches of an eighth of the image learns to read within minutes.
TEXT_HEIGHTS = (0.2, 0.23)
SMALLEST_SCALE = 0.05


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are drawn: image size in pixels, how many objects, how often text.

    Raises `InputError` for contradictions.
    """

    height: int = 64
    width: int = 64
    min_objects: int = 1
    max_objects: int = 6
    text_probability: float = 0.3
    seed: int = 0
    # Objects and letters are so many times as large as they usually are, in each scene another number of this range.
    min_scale: float = 1.0
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 32 <= getattr(self, name) <= 8192:
                raise InputError(
                    f"{name}={getattr(self, name)}: scenes are 32 to 8192 pixels; choose {name} in between"
                )
        if not 1 <= self.min_objects <= self.max_objects <= 6:
            raise InputError(
                f"min_objects={self.min_objects}, max_objects={self.max_objects}: "
                "choose 1 <= min_objects <= max_objects <= 6"
            )
        if not 0.0 <= self.text_probability <= 1.0:
            raise InputError(f"text_probability={self.text_probability}: choose a probability in [0, 1]")
        if not SMALLEST_SCALE <= self.min_scale <= self.max_scale <= 1.0:
            raise InputError(
                f"min_scale={self.min_scale}, max_scale={self.max_scale}: "
                f"choose {SMALLEST_SCALE} <= min_scale <= max_scale <= 1"
            )


def parse_size(text: str, field: str = "size") -> tuple[int, int]:
    """``"64"`` → (64, 64), ``"48x64"`` → (48, 64): height and width in pixels. Raises InputError naming ``field``."""
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    if not match:
        raise InputError(f"{field}={text}: give pixels, as one number or as HEIGHTxWIDTH")
    return int(match[1]), int(match[2] or match[1])


def parse_scale(text: str, field: str = "scale") -> tuple[float, float]:
    """``"0.3"`` → (0.3, 0.3), ``"0.4-1"`` → (0.4, 1.0): least and greatest. Raises InputError naming ``field``."""
    match = re.fullmatch(r"(\d(?:\.\d{1,9})?)(?:-(\d(?:\.\d{1,9})?))?", text)
    if not match:
        raise InputError(f"{field}={text}: give one number, such as 0.3, or the least and the greatest, such as 0.4-1")
    return float(match[1]), float(match[2] or match[1])


@dataclass(frozen=True)
class Background:
    """A muted texture between two similar colors; ``period`` in units of the image's shorter side."""

    texture: str
    first: Color
    second: Color
    period: float
    direction: int
    phase: float
    grain: int  # seed of the pixel noise


@dataclass(frozen=True)
class Scene:
    """The ground truth of one image; `image` and `mask` render it on request."""

    objects: tuple[SceneObject, ...]
    text: str | None
    text_box: Box | None  # the plate under the text
    dark_plate: bool
    background: Background
    split: str
    index: int
    config: SceneConfig = field(default_factory=SceneConfig)
    scale: float = 1.0  # of objects, their outlines and letters

    def pixels(self) -> np.ndarray:
        """The image as (H, W, 3) uint8."""
        from data.synthetic.draw import render

        return render(self)

    def image(self) -> Image.Image:
        """The image, RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels())

    def region(self, item: SceneObject) -> int:
        """The value of an object in the mask."""
        return self.objects.index(item) + 1

    def mask(self) -> np.ndarray:
        """(H, W) uint8: 0 background, i + 1 where object i is visible, 255 the plate of the text."""
        from data.synthetic.draw import render_mask

        return render_mask(self)


def make_scene(split: str, index: int, config: SceneConfig = SceneConfig()) -> Scene:
    """Scene ``index`` of ``split``: a function of (seed, split, index, shape of the image), on every machine.

    Raises `InputError` for an unknown split or a negative index.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise InputError(f"index={index}: scenes are counted from 0")
    rng = stream(config.seed, split, index)
    return draw_scene(rng, split, index, config)


def draw_scene(
    rng: random.Random,
    split: str,
    index: int,
    config: SceneConfig,
    looks: Sequence[tuple[str, str]] | None = None,
    text: str | None = None,
) -> Scene:
    """A scene from the stream ``rng``; ``looks`` asks for those objects (color, shape) and ``text``, and no others."""
    shorter = min(config.height, config.width)
    width, height = config.width / shorter, config.height / shorter
    scale = config.max_scale
    if config.min_scale < scale:
        scale = between(rng, config.min_scale, scale)
    if looks is None:
        count = config.min_objects + below(rng, config.max_objects - config.min_objects + 1)
        colors, shapes = palettes(rng)
        looks = [(pick(rng, colors), pick(rng, shapes)) for _ in range(count)]
        if rng.random() < config.text_probability:
            text = pick(rng, WORDS) if rng.random() < 0.6 else pick(rng, NUMBERS)
    plate, dark_plate = None, False
    if text is not None:
        dark_plate = rng.random() < 0.5
        plate = _place_text(rng, text, width, height, scale)
    objects = place_objects(rng, looks, plate, width, height, scale)
    text_box = None
    if plate is not None:
        text_box = (plate[0] / width, plate[1] / height, plate[2] / width, plate[3] / height)
    # The background is the cheap part: it is drawn again until the whole content's hash lands in the split.
    content = _foreground_hash(objects, text, text_box, dark_plate)
    while True:
        background = _draw_background(rng)
        if _split_of(content, background) == split:
            return Scene(objects, text, text_box, dark_plate, background, split, index, config, scale)


def content_split(scene: Scene) -> str:
    """The only split that can hold ``scene``, from the hash of its objects, text and background (80/10/10)."""
    content = _foreground_hash(scene.objects, scene.text, scene.text_box, scene.dark_plate)
    return _split_of(content, scene.background)


def _foreground_hash(
    objects: tuple[SceneObject, ...], text: str | None, text_box: Box | None, dark_plate: bool
) -> hashlib.blake2b:
    plain = [(o.shape, o.color, o.size, o.box, o.rgb, o.rotation, o.anchor, o.radius) for o in objects]
    return hashlib.blake2b(repr((plain, text, text_box, dark_plate)).encode(), digest_size=8)


def _split_of(foreground: hashlib.blake2b, background: Background) -> str:
    whole, b = foreground.copy(), background
    whole.update(repr((b.texture, b.first, b.second, b.period, b.direction, b.phase, b.grain)).encode())
    slot = int.from_bytes(whole.digest(), "little") % 10
    return "train" if slot < 8 else "validation" if slot == 8 else "test"


def _place_text(rng: random.Random, text: str, width: float, height: float, scale: float) -> Box:
    cell = scale * between(rng, *TEXT_HEIGHTS) / 7
    plate_width = (6 * len(text) - 1 + 2 * TEXT_MARGIN) * cell
    plate_height = (7 + 2 * TEXT_MARGIN) * cell
    x = between(rng, 0.02, width - plate_width - 0.02)
    y = between(rng, 0.02, height - plate_height - 0.02)
    return x, y, x + plate_width, y + plate_height


def _draw_background(rng: random.Random) -> Background:
    gray = 116 + below(rng, 64)
    first = tuple(gray + below(rng, 29) - 14 for _ in range(3))
    contrast = (14 + below(rng, 18)) * (1 if rng.random() < 0.5 else -1)
    second = tuple(c + contrast + below(rng, 9) - 4 for c in first)
    return Background(
        texture=pick(rng, TEXTURES),
        first=first,  # type: ignore[arg-type]
        second=second,  # type: ignore[arg-type]
        period=between(rng, 0.1, 0.35),
        direction=below(rng, len(DIRECTIONS)),
        phase=rng.random(),
        grain=below(rng, 2**31),
    )

"""Scenes: which drawings lie where in an image, drawn deterministically from (seed, split, index)."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from data.drawings.index import THINGS, Drawing, Name, load_index
from data.drawings.lettering import SIGNS, Box, Lettering, place_text, written
from data.drawings.rendering import ANGLES
from data.limits import check_range
from data.synthetic.vocabulary import below, between, pick, shuffled, stream

if TYPE_CHECKING:
    import numpy as np

MOST_OBJECTS = 6
TEXT_VALUE = 255
"""The value of the text's plate in a mask."""
_SIDES = (128, 160, 192, 224, 256, 320, 384, 448)
_SIZES = (0.0, 0.0, 0.52, 0.44, 0.39, 0.35, 0.32)  # of each of so many things, in the image's shorter side
_OVERLAP = 0.2  # the most that two things may share of the smaller one's box
_FIXED = ("left", "right", "clock", "button", "sign", "symbol", "keycap")  # words of what no mirror may turn


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are composed. Raises `InputError` for contradictions.

    Attributes:
        height: in pixels; None for one of several sizes from 128 to 448, another in each scene. Likewise ``width``.
        objects: the most in one scene; with 1 every drawing of the split has its turn.
        text: fraction of scenes that have something to read; with 1 object none has.
        names: only so many of the most common names; 0 for all.
        seed: of all scenes.
    """

    height: int | None = None
    width: int | None = None
    objects: int = MOST_OBJECTS
    text: float = 0.3
    names: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("size", self.height, 32, 8192)
        check_range("size", self.width, 32, 8192)
        check_range("objects", self.objects, 1, MOST_OBJECTS)
        check_range("text", self.text, 0, 1)
        check_range("names", self.names, 0, 10**6)


@dataclass(frozen=True)
class Thing:
    """A drawing in its place.

    Attributes:
        box: x1, y1, x2, y2 in [0, 1] of the image; what is visible reaches its sides.
        angle: index into `ANGLES`.
    """

    drawing: Drawing
    box: Box
    angle: int
    mirrored: bool

    @property
    def name(self) -> Name:
        return self.drawing.name

    @property
    def center(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def picture(self, height: int, width: int) -> tuple[Image.Image, tuple[int, int]]:
        """The drawing as large as it is in an image of this size, RGBA, and where its upper left corner lies."""
        left, top = round(self.box[0] * width), round(self.box[1] * height)
        wide, high = max(1, round(self.box[2] * width) - left), max(1, round(self.box[3] * height) - top)
        picture = load_index().pictures[self.drawing.number]
        if self.mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if ANGLES[self.angle]:
            longer = min(max(picture.size), 1.5 * max(wide, high))
            picture = _resized(picture, longer / max(picture.size))
            picture = picture.rotate(_turn(self), Image.Resampling.BILINEAR, expand=True)
            picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha >= 64)).getbbox())
        return picture.resize((wide, high), Image.Resampling.BILINEAR, reducing_gap=2.0), (left, top)


def _turn(thing: Thing) -> int:
    """Degrees: extents are those of the drawing before it is mirrored."""
    return -ANGLES[thing.angle] if thing.mirrored else ANGLES[thing.angle]


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    if scale >= 1:
        return picture
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


@dataclass(frozen=True)
class Scene:
    """The ground truth of one image; `image` and `mask` render it on request.

    Attributes:
        things: the later ones lie above the earlier ones.
        lettering: what is written, its box in pixels.
    """

    things: tuple[Thing, ...]
    lettering: Lettering | None
    height: int
    width: int
    split: str
    index: int
    config: SceneConfig = field(default_factory=SceneConfig)

    @property
    def text(self) -> str | None:
        """What is written."""
        return self.lettering.text if self.lettering else None

    def stream(self, purpose: str) -> random.Random:
        """A random stream of this scene's own."""
        return stream("drawings", purpose, self.config.seed, self.split, self.index)

    def image(self) -> Image.Image:
        """The image, RGB."""
        from data.drawings.backgrounds import make_background  # numpy, which `mllm eval --help` does without

        image = make_background(self.stream("background"), self.height, self.width)
        for thing in self.things:
            picture, corner = thing.picture(self.height, self.width)
            image.paste(picture, corner, picture)
        if self.lettering is not None:
            self.lettering.draw(image)
        return image

    def mask(self) -> np.ndarray:
        """(H, W) uint8: 0 background, i + 1 where thing i is visible, `TEXT_VALUE` the plate of the text."""
        import numpy as np

        mask = Image.new("L", (self.width, self.height))
        for number, thing in enumerate(self.things, 1):
            picture, corner = thing.picture(self.height, self.width)
            mask.paste(number, corner, picture.getchannel("A").point(lambda alpha: 255 * (alpha >= 128)))
        if self.lettering is not None:
            left, top, right, bottom = map(round, self.lettering.box)
            mask.paste(TEXT_VALUE, (left, top, right, bottom))
        return np.asarray(mask)


@dataclass(frozen=True)
class Stock:
    """What scenes of a split are composed of.

    Attributes:
        drawings: by name.
        things: the names that everyday things have.
        others: faces, people and symbols.
        order: all drawings, so that neighbors have nothing in common.
        words: that may be written.
        like: the names of each kind and of each group.
    """

    drawings: dict[Name, list[Drawing]]
    things: list[Name]
    others: list[Name]
    order: list[Drawing]
    words: list[str]
    like: dict[str, list[Name]]


@functools.lru_cache(maxsize=16)
def stock(split: str, names: int = 0) -> Stock:
    """The stock of a split, of the most common names only. Raises InputError if there is no such split."""
    drawings = load_index().of(split)
    if names:
        drawings = {name: drawings[name] for name in sorted(drawings, key=lambda name: name.rank)[:names]}
    every = [drawing for of_name in drawings.values() for drawing in of_name]
    like: dict[str, list[Name]] = {}
    for name in drawings:
        like.setdefault(name.kind, []).append(name)
        like.setdefault(name.group, []).append(name)
    words = [name.text for name in drawings if name.text.isalpha() and len(name.text) <= 8]
    return Stock(
        drawings,
        [name for name in drawings if name.group in THINGS],
        [name for name in drawings if name.group not in THINGS],
        shuffled(stream("drawings", split), every),
        [*SIGNS, *words],
        like,
    )


def make_scene(split: str, index: int, config: SceneConfig = SceneConfig()) -> Scene:
    """Scene ``index`` of ``split``: a function of (seed, split, index) and of the configuration.

    Raises `InputError` for an unknown split.
    """
    given, rng = stock(split, config.names), stream("drawings", config.seed, split, index)
    height = config.height or pick(rng, _SIDES)
    width = config.width or config.height or round(height * pick(rng, (1, 1, 1, 0.75, 4 / 3)))
    if config.objects == 1:
        return compose(rng, [given.order[index % len(given.order)]], None, height, width, split, index, config)
    count = 1 + below(rng, config.objects)
    text = _text(rng, given) if rng.random() < config.text else None
    return compose(rng, _choose(rng, given, count), text, height, width, split, index, config)


def _choose(rng: random.Random, given: Stock, count: int) -> list[Drawing]:
    """Drawings for a scene: of different things, or with some of one kind, which can be counted."""
    chosen: list[Drawing] = []
    alike = rng.random() < 0.4
    while len(chosen) < count:
        names = given.things if rng.random() < 0.85 or not given.others else given.others
        drawings = given.drawings[pick(rng, names or given.others)]
        room = count - len(chosen)
        repeats = 1 + below(rng, room) if alike and room > 1 else 1
        first = pick(rng, drawings)
        same = rng.random() < 0.5  # one artist's drawing several times, or several artists'
        chosen += [first, *(first if same else pick(rng, drawings) for _ in range(repeats - 1))]
    return shuffled(rng, chosen)


def _text(rng: random.Random, given: Stock) -> str:
    if rng.random() < 0.3:
        return str(below(rng, 10 ** (1 + below(rng, 4))))
    return written(rng, pick(rng, given.words))


def compose(
    rng: random.Random,
    drawings: Sequence[Drawing],
    text: str | None,
    height: int,
    width: int,
    split: str,
    index: int,
    config: SceneConfig,
) -> Scene:
    """Places drawings and a text so that little of each is hidden."""
    lettering = None if text is None else place_text(rng, text, height, width)
    taken = [lettering.box] if lettering else []
    shorter, count = min(height, width), len(drawings)
    scale = between(rng, 0.4, 0.95) if count == 1 else _SIZES[count] * between(rng, 0.7, 1.1)
    things = []
    for drawing in drawings:
        angle = pick(rng, range(len(ANGLES))) if rng.random() < 0.3 else ANGLES.index(0)
        mirrored = rng.random() < 0.3 and not any(word in drawing.name.text for word in _FIXED)
        side = scale * shorter * (1 if count == 1 else between(rng, 0.75, 1.25))
        wide, high = (side * extent for extent in drawing.extents[angle])
        box = _free_place(rng, wide, high, height, width, taken)
        taken.append(box)
        in_image = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        things.append(Thing(drawing, in_image, angle, mirrored))
    return Scene(tuple(things), lettering, height, width, split, index, config)


def _free_place(rng: random.Random, wide: float, high: float, height: int, width: int, taken: Sequence[Box]) -> Box:
    """A box inside the image that hides little of others; it shrinks where there is no room."""
    fit = min(1.0, 0.98 * width / wide, 0.98 * height / high)
    wide, high = fit * wide, fit * high
    best, least = (0.0, 0.0, wide, high), float("inf")
    for attempt in range(24):
        if attempt % 6 == 5:
            wide, high = 0.85 * wide, 0.85 * high
        x, y = between(rng, 0, width - wide), between(rng, 0, height - high)
        box = (x, y, x + wide, y + high)
        shared = max((_shared(box, other) for other in taken), default=0.0)
        if shared < least:
            best, least = box, shared
        if shared <= _OVERLAP * rng.random():
            break
    return best


def _shared(first: Box, second: Box) -> float:
    """The area that two boxes share, in that of the smaller one."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(0.0, wide) * max(0.0, high) / min(areas)

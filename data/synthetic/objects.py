"""The objects of a scene: their shapes' geometry, and how they are laid out.

Lengths are in units of the image's shorter side, so that one scene looks alike at every resolution; boxes are handed
out in [0, 1] of width and height.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.synthetic.vocabulary import COLORS, RGB, SHAPES, SIZES, below, between, pick, shuffled

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]

# cosine and sine of -12, -6, 0, 6 and 12 degrees: constants, because libm's last digit differs from machine to machine
ROTATIONS = (
    (0.9781476007338057, -0.20791169081775934),
    (0.9945218953682733, -0.10452846326765347),
    (1.0, 0.0),
    (0.9945218953682733, 0.10452846326765347),
    (0.9781476007338057, 0.20791169081775934),
)
# eight directions over half a turn, for gradients, stripes and neighbors
DIRECTIONS = (
    (1.0, 0.0),
    (0.9238795325112867, 0.3826834323650898),
    (0.7071067811865476, 0.7071067811865476),
    (0.3826834323650898, 0.9238795325112867),
    (0.0, 1.0),
    (-0.3826834323650898, 0.9238795325112867),
    (-0.7071067811865476, 0.7071067811865476),
    (-0.9238795325112867, 0.3826834323650898),
)
RADII = {"small": (0.13, 0.15), "large": (0.19, 0.22)}
# corners (before rotation, in radii) that bound each shape; circles are bounded by radius alone
CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),
    "triangle": ((0.0, -0.9), (1.0, 0.8), (-1.0, 0.8)),
    "star": ((0.0, -1.05), (0.9986, -0.3245), (0.6172, 0.8495), (-0.6172, 0.8495), (-0.9986, -0.3245)),
    "cross": tuple((sx * x, sy * y) for x, y in ((0.34, 1.0), (1.0, 0.34)) for sx in (-1, 1) for sy in (-1, 1)),
    "diamond": ((0.0, -1.05), (0.76, 0.0), (0.0, 1.05), (-0.76, 0.0)),
}
TEXT_MARGIN = 1.0  # cells of the 5x7 font around the text, on its plate
TEXT_VALUE = 255  # of the plate in a scene's mask
CLEARANCE = 0.83  # centers are at least this share of the two radii apart, which bounds how much is hidden


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, and its bounding box (x1, y1, x2, y2) in [0, 1] of width and height.

    ``rgb`` is its jittered color, ``rotation`` an index into ``ROTATIONS``, ``anchor`` and ``radius`` the drawn
    origin and size in units of the image's shorter side.
    """

    shape: str
    color: str
    size: str
    box: Box
    rgb: Color
    rotation: int
    anchor: tuple[float, float]
    radius: float

    @property
    def center(self) -> tuple[float, float]:
        """Middle (x, y) of the box, in [0, 1]."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def quadrant(self) -> str:
        """Which quarter of the image its center is in: ``"top left"``."""
        x, y = self.center
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"

    @property
    def name(self) -> str:
        """Color and shape: ``"red circle"``."""
        return f"{self.color} {self.shape}"

    @property
    def phrase(self) -> str:
        """Size, color and shape: ``"large red circle"``."""
        return f"{self.size} {self.color} {self.shape}"


def palettes(rng: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Colors and shapes of one scene: sometimes two of a kind only, so that counting has something to count."""
    kind = rng.random()
    if kind < 0.3:
        return tuple(shuffled(rng, COLORS)[:2]), SHAPES
    if kind < 0.6:
        return COLORS, tuple(shuffled(rng, SHAPES)[:2])
    return COLORS, SHAPES


def place_objects(
    rng: random.Random,
    looks: Sequence[tuple[str, str]],
    plate: Box | None,
    width: float,
    height: float,
    scale: float = 1.0,
) -> tuple[SceneObject, ...]:
    """Put the objects on the image, ``scale`` times as large as `RADII` says: a layout that does not fit is tried again
    with one object made small, and when all are small, with all of them a little smaller."""
    large, shrink = sum(rng.random() < 0.5 for _ in looks), scale
    while True:
        radii = sorted((shrink * between(rng, *RADII[SIZES[i < large]]) for i in range(len(looks))), reverse=True)
        centers = _layout(rng, radii, plate, width, height)
        if centers is not None:
            break
        if large == 0:
            shrink *= 0.95
        large = max(0, large - 1)
    placed = shuffled(rng, [(*center, radius) for center, radius in zip(centers, radii, strict=True)])
    return tuple(
        _make_object(rng, look, x, y, radius, width, height, scale)
        for look, (x, y, radius) in zip(looks, placed, strict=True)
    )


def _layout(
    rng: random.Random, radii: list[float], plate: Box | None, width: float, height: float
) -> list[tuple[float, float]] | None:
    """Centers for discs of ``radii``, apart from one another and from the plate; None if they don't fit."""
    placed: list[tuple[float, float, float]] = []
    for radius in radii:
        edge = 1.16 * radius  # the corner of a rotated triangle
        for _ in range(24):
            if placed and rng.random() < 0.4:  # close to another object, to overlap a little
                other_x, other_y, other = pick(rng, placed)
                dx, dy = pick(rng, DIRECTIONS)
                distance = (other + radius) * between(rng, CLEARANCE, 1.0) * (1 if rng.random() < 0.5 else -1)
                x, y = other_x + dx * distance, other_y + dy * distance
            else:
                x, y = between(rng, edge, width - edge), between(rng, edge, height - edge)
            if not (edge <= x <= width - edge and edge <= y <= height - edge):
                continue
            if plate is not None:
                dx = max(plate[0] - x, 0.0, x - plate[2])
                dy = max(plate[1] - y, 0.0, y - plate[3])
                if dx * dx + dy * dy < radius * radius:
                    continue
            for other_x, other_y, other in placed:
                dx, dy = x - other_x, y - other_y
                reach = CLEARANCE * (radius + other)
                if dx * dx + dy * dy < reach * reach:
                    break
            else:
                placed.append((x, y, radius))
                break
        else:
            return None
    return [(x, y) for x, y, _ in placed]


def _make_object(
    rng: random.Random,
    look: tuple[str, str],
    x: float,
    y: float,
    radius: float,
    width: float,
    height: float,
    scale: float,
) -> SceneObject:
    color, shape = look
    rotation = below(rng, len(ROTATIONS)) if shape in ROTATED else 2
    left, top, right, bottom = EXTENTS[shape, rotation]
    box = (
        (x + left * radius) / width,
        (y + top * radius) / height,
        (x + right * radius) / width,
        (y + bottom * radius) / height,
    )
    shade = below(rng, 25) - 12
    red, green, blue = (min(255, max(0, c + shade + below(rng, 13) - 6)) for c in RGB[color])
    size = "large" if radius >= scale * RADII["large"][0] else "small"
    return SceneObject(shape, color, size, box, (red, green, blue), rotation, (x, y), radius)


def _extents(shape: str, rotation: int) -> Box:
    """Bounds (left, top, right, bottom) of a shape around its anchor, in radii."""
    if shape in ("circle", "ring"):
        return -1.0, -1.0, 1.0, 1.0
    cosine, sine = ROTATIONS[rotation]
    discs: tuple[tuple[float, float, float], ...]
    if shape == "heart":  # two discs and the tip: see draw.py
        discs = ((0.41, -0.37, 0.58), (-0.41, -0.37, 0.58), (0.0, 0.86, 0.0))
    else:
        discs = tuple((x, y, 0.0) for x, y in CORNERS[shape])
    xs = [(x * cosine - y * sine, r) for x, y, r in discs]
    ys = [(x * sine + y * cosine, r) for x, y, r in discs]
    return min(x - r for x, r in xs), min(y - r for y, r in ys), max(x + r for x, r in xs), max(y + r for y, r in ys)


ROTATED = ("square", "triangle", "star", "cross", "diamond", "heart")
EXTENTS = {(shape, rotation): _extents(shape, rotation) for shape in SHAPES for rotation in range(len(ROTATIONS))}

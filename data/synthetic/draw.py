"""Scenes as pixels: signed distances and half planes, anti-aliased, the same bits on every machine.

Only + - * / sqrt, min, max and comparisons are used, elementwise on float32: IEEE 754 rounds each of them exactly, so
the images don't depend on the processor, the BLAS or libm. An object is evaluated inside its bounding box only, and
channels come first until the end: numpy is twice as fast along rows as along three channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from data.synthetic.font import GLYPHS
from data.synthetic.objects import DIRECTIONS, EXTENTS, ROTATIONS, TEXT_MARGIN, TEXT_VALUE

if TYPE_CHECKING:
    from data.synthetic.objects import Color, SceneObject
    from data.synthetic.scene import Background, Scene

# Width of an object's outline, inside its shape, of the image's shorter side. It keeps overlapping objects of one
# color apart, and a shape looks alike in all colors: a small ViT learns shapes from several times fewer images.
OUTLINE = 0.03
INK = 8.0  # value of the outline
_ROOT_HALF = 0.7071067811865476


def render(scene: Scene) -> np.ndarray:
    """The image of ``scene``, (H, W, 3) uint8 RGB."""
    height, width = scene.config.height, scene.config.width
    shorter = min(height, width)
    outline = OUTLINE * scene.scale * shorter
    canvas = _background(scene.background, height, width)
    for item in scene.objects:
        (top, bottom, left, right), distance = _distance(item, height, width, shorter)
        region = canvas[:, top:bottom, left:right]
        region += (0.5 - distance).clip(0, 1) * (INK - region)
        region += (0.5 - outline - distance).clip(0, 1) * (_planes(item.rgb) - region)
    if scene.text is not None:
        _draw_text(canvas, scene)
    canvas += 0.5
    return np.ascontiguousarray(canvas.clip(0, 255, out=canvas).astype(np.uint8).transpose(1, 2, 0))


def render_mask(scene: Scene) -> np.ndarray:
    """(H, W) uint8: 0 background, i + 1 where object i covers at least half of the pixel, 255 the text's plate."""
    height, width = scene.config.height, scene.config.width
    mask = np.zeros((height, width), np.uint8)
    for number, item in enumerate(scene.objects, start=1):
        (top, bottom, left, right), distance = _distance(item, height, width, min(height, width))
        mask[top:bottom, left:right][distance <= 0] = number
    if scene.text is not None:
        left, top, right, bottom = _plate(scene)
        mask[top:bottom, left:right] = TEXT_VALUE
    return mask


def _distance(item: SceneObject, height: int, width: int, shorter: int) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """The pixels (top, bottom, left, right) around an object, and their signed distances to it."""
    center_x, center_y = item.anchor[0] * shorter, item.anchor[1] * shorter
    radius = item.radius * shorter
    extents = EXTENTS[item.shape, item.rotation]
    left = max(0, math.floor(center_x + extents[0] * radius) - 1)
    top = max(0, math.floor(center_y + extents[1] * radius) - 1)
    right = min(width, math.ceil(center_x + extents[2] * radius) + 1)
    bottom = min(height, math.ceil(center_y + extents[3] * radius) + 1)
    x = np.arange(left, right, dtype=np.float32)[None, :] + (0.5 - center_x)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + (0.5 - center_y)
    if item.rotation != 2:
        cosine, sine = ROTATIONS[item.rotation]
        x, y = x * cosine + y * sine, y * cosine - x * sine
    return (top, bottom, left, right), _DISTANCES[item.shape](x, y, radius)


# Signed distances in pixels, negative inside, from coordinates relative to the anchor: x (…, W), y (H, …), y down.


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - r


def _ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return abs(np.sqrt(x * x + y * y) - 0.66 * r) - 0.34 * r


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - 0.82 * r


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    # corners (0, -0.9), (+-1, 0.8): the side's normal is (1.7, -1) / sqrt(3.89)
    side = (1.7 * abs(x) - y - 0.9 * r) * 0.5070201265633938
    return np.maximum(side, y - 0.8 * r)


def _star(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Five points: three mirrors fold the plane into a tenth, in which one edge is left."""
    cosine, sine = 0.8090169943749475, 0.5877852522924731  # of 36 degrees
    y = -y
    x = abs(x)
    fold = np.maximum(cosine * x - sine * y, 0) * 2
    x, y = x - fold * cosine, y + fold * sine
    fold = np.maximum(-cosine * x - sine * y, 0) * 2
    x, y = abs(x + fold * cosine), y + fold * sine
    # from the tip (0, 1.05) to the notch at 36 degrees, 0.5 from the center
    edge_x, edge_y = 0.5 * sine, 0.5 * cosine - 1.05
    length = math.sqrt(edge_x * edge_x + edge_y * edge_y)
    return ((y - 1.05 * r) * edge_x - x * edge_y) * (1 / length)


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y = abs(x), abs(y)
    arm = 0.34 * r
    return np.minimum(np.maximum(x - r, y - arm), np.maximum(x - arm, y - r))


def _diamond(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    # corners (+-0.76, 0), (0, +-1.05)
    return (1.05 * abs(x) + 0.76 * abs(y) - 0.798 * r) * (1 / math.sqrt(1.05 * 1.05 + 0.76 * 0.76))


def _heart(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """A square on its tip and two discs on its upper sides (the square's side is a disc's diameter)."""
    x = abs(x)
    up = 0.86 * r - y  # 0 at the tip
    lobe_x, lobe_y = x - 0.41 * r, up - 1.23 * r
    lobe = np.sqrt(lobe_x * lobe_x + lobe_y * lobe_y) - 0.58 * r
    body = np.maximum(x - up, x + up - 1.64 * r) * _ROOT_HALF
    return np.minimum(lobe, body)


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
    "ring": _ring,
    "heart": _heart,
}


def _background(background: Background, height: int, width: int) -> np.ndarray:
    """(3, H, W) float32 in [0, 255]: a blend of the two colors by the texture, and a little grain."""
    shorter = min(height, width)
    x = np.arange(width, dtype=np.float32)[None, :] * (1 / shorter)
    y = np.arange(height, dtype=np.float32)[:, None] * (1 / shorter)
    cosine, sine = DIRECTIONS[background.direction]
    along = x * cosine + y * sine
    if background.texture == "gradient":
        low, high = along.min(), along.max()
        blend = (along - low) * (1 / float(high - low))
    elif background.texture == "stripes":
        blend = _wave(along, background.period, background.phase, shorter)
    elif background.texture == "checks":
        first = _wave(along, background.period, background.phase, shorter)
        second = _wave(y * cosine - x * sine, background.period, background.phase, shorter)
        blend = first + second - 2 * first * second
    elif background.texture == "noise":
        blend = _value_noise(x + background.phase, y + background.phase, background.period, background.grain)
    else:
        blend = np.zeros((1, 1), np.float32)
    first_color = _planes(background.first)
    rows, columns = np.arange(height, dtype=np.uint32)[:, None], np.arange(width, dtype=np.uint32)[None, :]
    grain = (_hash(columns, rows, background.grain) >> 24).astype(np.float32) * (14 / 255) - 7
    canvas = blend * (_planes(background.second) - first_color) + grain
    canvas += first_color
    return canvas


def _planes(color: Color) -> np.ndarray:
    """(3, 1, 1) float32"""
    return np.array(color, np.float32)[:, None, None]


def _wave(along: np.ndarray, period: float, phase: float, shorter: int) -> np.ndarray:
    """Stripes in [0, 1] with edges of about a pixel."""
    position = along * (1 / period) + phase
    fraction = position - np.floor(position)
    triangle = abs(2 * fraction - 1) - 0.5
    return (triangle * (0.5 * period * shorter) + 0.5).clip(0, 1)


def _value_noise(x: np.ndarray, y: np.ndarray, period: float, seed: int) -> np.ndarray:
    """Smooth noise in [0, 1]: random values on a grid of half a period, blended bilinearly."""
    x, y = x * (2 / period), y * (2 / period)
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    columns = np.arange(int(column[0, -1]) + 2, dtype=np.uint32)[None, :]
    rows = np.arange(int(row[-1, 0]) + 2, dtype=np.uint32)[:, None]
    grid = (_hash(columns, rows, seed + 1) >> 8).astype(np.float32) * (1 / 2**24)
    i, j = row[:, 0].astype(np.intp), column[0].astype(np.intp)
    across = grid[:, j] + (grid[:, j + 1] - grid[:, j]) * fx
    return across[i] + (across[i + 1] - across[i]) * fy


def _hash(column: np.ndarray, row: np.ndarray, seed: int) -> np.ndarray:
    """Well mixed 32-bit integers for grid points: xxHash-like integer arithmetic, exact everywhere."""
    value = column * np.uint32(374761393) + (row * np.uint32(668265263) + np.uint32(seed * 2246822519 % 2**32))
    value = (value ^ (value >> np.uint32(13))) * np.uint32(1274126177)
    value = (value ^ (value >> np.uint32(15))) * np.uint32(2246822519)
    return value ^ (value >> np.uint32(16))


def _plate(scene: Scene) -> tuple[int, int, int, int]:
    """The plate of the text in whole pixels (left, top, right, bottom)."""
    if scene.text_box is None:
        raise ValueError("this scene has no text")
    x1, y1, x2, y2 = scene.text_box
    height, width = scene.config.height, scene.config.width
    return math.floor(x1 * width), math.floor(y1 * height), math.ceil(x2 * width), math.ceil(y2 * height)


def _draw_text(canvas: np.ndarray, scene: Scene) -> None:
    """The plate, and on it the 5x7 letters scaled by box filtering (4x4 samples a pixel, counted exactly)."""
    assert scene.text is not None
    left, top, right, bottom = _plate(scene)
    ink, paper = (242.0, 22.0) if scene.dark_plate else (20.0, 240.0)
    letters = np.zeros((7, 6 * len(scene.text) - 1), bool)
    for place, letter in enumerate(scene.text):
        letters[:, 6 * place : 6 * place + 5] = GLYPHS[letter]
    cell = (bottom - top) / (7 + 2 * TEXT_MARGIN)
    tall = max(7, round(7 * cell))
    wide = max(letters.shape[1], round(tall * letters.shape[1] / 7))
    sample_rows = np.arange(4 * tall) * 7 // (4 * tall)
    sample_columns = np.arange(4 * wide) * letters.shape[1] // (4 * wide)
    samples = letters[sample_rows[:, None], sample_columns[None, :]]
    cover = samples.reshape(tall, 4, wide, 4).sum(axis=(1, 3)).astype(np.float32) * (1 / 16)
    # at very low resolutions the letters may need more room than the plate has
    row = max(0, (top + bottom - tall) // 2)
    column = max(0, (left + right - wide) // 2)
    canvas[:, top:bottom, left:right] = paper
    region = canvas[:, row : row + tall, column : column + wide]
    cover = cover[: region.shape[1], : region.shape[2]]
    region += cover * (ink - region)

"""Backgrounds of composed images: plain, patterned, or with the light and grain of a photo; all are computed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from data.synthetic.vocabulary import between, pick

Color = np.ndarray
"""(3,) float32 in [0, 255]."""


def make_background(rng: random.Random, height: int, width: int) -> Image.Image:
    """Draws a background, RGB; a third are plain, half of these white."""
    chance = rng.random()
    numbers = np.random.default_rng(rng.getrandbits(63))
    if chance < 0.17:
        return Image.new("RGB", (width, height), "white")
    kind = plain if chance < 0.34 else pick(rng, KINDS)
    return kind(rng, numbers, height, width)


def _color(rng: random.Random, least: float = 0.25) -> Color:
    """A color, mostly muted."""
    value, saturation = between(rng, least, 1.0), between(rng, 0.0, 1.0) ** 2
    tint = np.array([rng.random() for _ in range(3)], dtype=np.float32)
    tint /= tint.max()
    return 255 * value * (1 - saturation + saturation * tint)


def _near(rng: random.Random, color: Color, most: float = 60) -> Color:
    """A color that differs little from another."""
    shift = between(rng, 12, most) * (1 if color.mean() < 128 else -1)
    return np.clip(color + shift + np.array([between(rng, -20, 20) for _ in range(3)], dtype=np.float32), 0, 255)


def _enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Values (h, w) in [0, 1] as (height, width), smoothly."""
    image = Image.fromarray((255 * values).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255


def _mixed(amount: np.ndarray, first: Color, second: Color) -> np.ndarray:
    """(H, W, 3): ``first`` where ``amount`` (H, W) is 0, ``second`` where it is 1."""
    mixed: np.ndarray = first + amount[..., None] * (second - first)
    return mixed


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _noise(numbers: np.random.Generator, height: int, width: int, stretch: int = 1) -> np.ndarray:
    """(H, W) in about [0, 1]: random numbers on four grids, the finer ones weaker; ``stretch`` makes it grainy wood."""
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((3, 0.5), (7, 0.27), (17, 0.15), (41, 0.08)):
        grid = numbers.random((cells, max(2, cells // stretch)), dtype=np.float32)
        total += weight * _enlarged(grid, height, width)
    return np.clip(1.6 * total - 0.3, 0, 1)


def _taken(pixels: np.ndarray, rng: random.Random, numbers: np.random.Generator) -> Image.Image:
    """What a camera adds: less light at the corners, grain."""
    height, width = pixels.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    light = 1 - between(rng, 0, 0.22) * (y[:, None] ** 2 + x[None, :] ** 2)
    grain = between(rng, 0, 9) * (numbers.random((height, width), dtype=np.float32) - 0.5)
    return _image(pixels * light[..., None] + grain[..., None])


def plain(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), tuple(_color(rng).astype(int).tolist()))


def gradient(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    first = _color(rng)
    amount = _enlarged(numbers.random((2, 2), dtype=np.float32), height, width)
    return _image(_mixed(amount, first, _near(rng, first, 120)))


def pattern(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    """Stripes, checks or dots in two similar colors."""
    period, first = between(rng, 0.05, 0.25) * min(height, width), _color(rng)
    y, x = np.arange(height, dtype=np.float32)[:, None] / period, np.arange(width, dtype=np.float32)[None, :] / period
    which = pick(rng, ("across", "down", "slanted", "checks", "dots"))
    if which == "dots":
        amount = ((y % 1 - 0.5) ** 2 + (x % 1 - 0.5) ** 2 < 0.06).astype(np.float32)
    elif which == "checks":
        amount = ((np.floor(y) + np.floor(x)) % 2).astype(np.float32)
    else:
        along = {"across": y + 0 * x, "down": x + 0 * y, "slanted": x + y}[which]
        amount = (along % 1 < 0.5).astype(np.float32)
    return _image(_mixed(amount, first, _near(rng, first, 45)))


def surface(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    """A wall, a cloth, or wood."""
    first = _color(rng)
    amount = _noise(numbers, height, width, pick(rng, (1, 1, 6)))
    return _taken(_mixed(amount, first, _near(rng, first, 70)), rng, numbers)


def landscape(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    """Something far above something near: sky and ground, or a wall and a table."""
    far, near, horizon = _color(rng, 0.5), _color(rng), between(rng, 0.3, 0.75)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.zeros((1, width), dtype=np.float32)
    upper = _mixed(down, far, _near(rng, far, 90))
    lower = _mixed(_noise(numbers, height, width, pick(rng, (1, 3))), near, _near(rng, near, 60))
    edge = np.clip((down - horizon) * height / between(rng, 1, 12) + 0.5, 0, 1)
    return _taken(upper + edge[..., None] * (lower - upper), rng, numbers)


def out_of_focus(rng: random.Random, numbers: np.random.Generator, height: int, width: int) -> Image.Image:
    """Soft spots of several colors, as behind what a lens is focused on."""
    cells = pick(rng, (3, 4, 6, 9))
    colors = np.stack([_color(rng) for _ in range(3)])
    spots = colors[numbers.integers(0, 3, (cells, cells))].astype(np.uint8)
    pixels = np.asarray(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return _taken(pixels, rng, numbers)


Kind = Callable[[random.Random, np.random.Generator, int, int], Image.Image]
KINDS: tuple[Kind, ...] = (gradient, pattern, surface, surface, landscape, landscape, out_of_focus)

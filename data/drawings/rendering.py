"""One drawing: from SVG to pixels with alpha, and what is computed of these: its colors and how far it reaches."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    import numpy as np

SIDE = 256  # pixels of the longer side, once the empty margins are cut off
ANGLES = (-24, -16, -8, 0, 8, 16, 24)
"""Degrees, against the clock, by which a drawing may be turned."""
COLORS = ("black", "gray", "white", "beige", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_SMALL = 64  # pixels on which colors and extents are computed
_LARGEST = 1024  # pixels of an SVG with its margins
_FLAT = 4000  # bytes of a picture that is stored without loss
_VISIBLE = 16  # alpha from which on a pixel belongs to the drawing


class Unrenderable(ValueError):
    """A file that is no picture, or an empty one."""


def render(source: str | Path) -> Image.Image:
    """Draws an SVG, given as text, or opens a file (SVG or any image).

    Returns:
        RGBA, cut to what is visible, the longer side at most `SIDE`, or a little more.

    Raises:
        Unrenderable: it is no picture, or nothing is visible.
    """
    try:
        if isinstance(source, str):
            return _drawn(source)
        if source.suffix == ".svg":
            return _drawn(source.read_text(encoding="utf-8", errors="replace"))
        image = _cut(Image.open(source).convert("RGBA"))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise Unrenderable(str(error)) from error
    if (scale := SIDE / max(image.size)) < 1:
        width, height = (max(1, round(scale * side)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def _drawn(svg: str) -> Image.Image:
    """An SVG, drawn at the size that makes it as large as wanted without its margins; resized, it would be blurred."""
    small = _cut(_rasterized(svg, _SMALL))
    return _cut(_rasterized(svg, min(_LARGEST, round(_SMALL * SIDE / max(small.size)))))


def _rasterized(svg: str, side: int) -> Image.Image:
    import resvg_py  # of the extra "drawings"

    encoded = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, dpi=96, width=side, height=side)
    return Image.open(io.BytesIO(encoded)).convert("RGBA")


def _cut(image: Image.Image) -> Image.Image:
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE)).getbbox()
    if box is None:
        raise Unrenderable("nothing is visible")
    return image.crop(box)


def encode(image: Image.Image) -> bytes:
    """A picture as WebP: without loss where that is small, as flat colors are, which is quicker to decode too."""
    encoded = _webp(image, lossless=True, quality=20, method=2)
    return encoded if len(encoded) <= _FLAT else _webp(image, quality=80, alpha_quality=50, method=3)


def _webp(image: Image.Image, **how: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **how)
    return buffer.getvalue()


def colors(image: Image.Image) -> list[tuple[str, float]]:
    """The colors of what is visible, each with its fraction of the area, largest first; those below 5% are left out."""
    import numpy as np  # here: `mllm eval --help` reads this file

    small = image.copy()
    small.thumbnail((_SMALL, _SMALL), Image.Resampling.BOX)
    visible = np.asarray(small.getchannel("A")) >= 128
    if not visible.any():
        return []
    hsv = np.asarray(small.convert("RGB").convert("HSV"))[visible].astype(np.float32)
    hue, saturation, value = hsv[:, 0] * (360 / 256), hsv[:, 1] / 255, hsv[:, 2] / 255
    counts = np.bincount(_classes(hue, saturation, value), minlength=len(COLORS)) / visible.sum()
    ranked = sorted(zip(COLORS, counts.round(3).tolist(), strict=True), key=lambda each: -each[1])
    return [(name, fraction) for name, fraction in ranked if fraction >= 0.05]


def _classes(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The index into `COLORS` of each pixel; hue in degrees, the others in [0, 1]."""
    import numpy as np

    pale = (saturation < 0.5) & (value > 0.7)
    red = (hue < 12) | (hue >= 345)
    warm = (hue >= 12) & (hue < 42)
    rules = (
        ("black", (value < 0.25) | ((value < 0.4) & (saturation < 0.3))),
        ("black", (value < 0.36) & (hue >= 180) & (hue < 280) & (saturation < 0.5)),  # as dark things are often drawn
        ("gray", (saturation < 0.15) & (value < 0.88)),
        ("white", saturation < 0.1),
        ("gray", (saturation < 0.3) & (hue >= 180) & (hue < 260) & (value < 0.75)),  # blue-gray metal
        ("beige", warm & pale),
        ("pink", red & pale),
        ("brown", red & (value < 0.5)),
        ("red", red),
        ("brown", warm & (value < 0.78)),
        ("orange", warm),
        ("brown", (hue < 66) & (value < 0.5)),
        ("beige", (hue < 66) & (saturation < 0.3)),
        ("yellow", hue < 66),
        ("green", hue < 168),
        ("blue", hue < 255),
        ("purple", (hue < 292) | ((hue < 345) & (value < 0.6))),
    )
    names = [name for name, _ in rules]
    chosen = np.select([rule for _, rule in rules], [COLORS.index(name) for name in names], COLORS.index("pink"))
    return np.asarray(chosen, dtype=np.int64)


def extents(image: Image.Image) -> list[tuple[float, float]]:
    """Width and height of the drawing turned by each of `ANGLES`, in its longer side before."""
    longer = max(image.size)
    alpha = image.getchannel("A").resize([max(1, round(2 * _SMALL * side / longer)) for side in image.size])
    found = []
    for angle in ANGLES:
        turned = alpha.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        left, top, right, bottom = turned.point(lambda value: 255 * (value >= 64)).getbbox() or (0, 0, 1, 1)
        found.append((round((right - left) / (2 * _SMALL), 3), round((bottom - top) / (2 * _SMALL), 3)))
    return found

"""Drawings of what a SparseFormer samples: RoIs step by step and sampling points, over the image as it is seen."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from data.files import write_whole
from encoder.image_processing import SparseFormerImageProcessor
from encoder.modeling import SparseFormerVisionModel

PANEL = 288  # longer side of the image in a panel, pixels
_MARGIN = 0.08  # of the image's sides; RoIs may reach outside the image
_CAPTION = 22  # height of the line above a panel
_GAP = 8
_PER_ROW = 4
_PAPER, _INK, _SURROUND = (255, 255, 255), (30, 30, 30), (214, 214, 214)
_NIGHT, _DIM = (16, 18, 40), 0.15  # what is not hot, and how much of the image is left there
_SMOOTH = 2  # panels are drawn this many times larger, then reduced: PIL draws jagged lines


def visualize(
    model: SparseFormerVisionModel,
    image_processor: SparseFormerImageProcessor,
    image: Image.Image,
    num_tokens: int | None = None,
) -> Image.Image:
    """Draws the RoIs and sampling points of an image, with as many tokens as given or the model's own."""
    pixel_values = image_processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values=pixel_values.to(model.device), output_sampling_points=True, num_tokens=num_tokens)
    return draw_rois(
        image_processor.image(pixel_values[0]),
        [rois[0] for rois in output.all_rois],
        [points[0] for points in output.sampling_points],
    )


def draw_rois(
    image: Image.Image, rois: Sequence[Tensor], sampling_points: Sequence[Tensor] = (), panel: int = PANEL
) -> Image.Image:
    """Draws a grid of captioned panels: RoIs step by step above, the points of each sampling step below.

    A token keeps its color through all panels. Where there are fewer sampling steps than RoIs, they are under the last
    RoIs, which they sampled.

    Args:
        image: the image as the encoder sees it (`SparseFormerImageProcessor.image`).
        rois: per step (N, 4), x1, y1, x2, y2 in image units, the initial ones first.
        sampling_points: per sampling step (N, P, 2), x and y in image units.
        panel: longer side of the image in each panel, in pixels, at least 64; small images are enlarged to it.

    Raises:
        ValueError: no RoIs, or shapes that do not fit.
    """
    if not rois or any(step.ndim != 2 or step.shape[-1] != 4 for step in rois):
        raise ValueError(f"rois: (N, 4) per step is needed, not {[tuple(step.shape) for step in rois]}")
    if any(points.ndim != 3 or points.shape[-1] != 2 for points in sampling_points):
        shapes = [tuple(points.shape) for points in sampling_points]
        raise ValueError(f"sampling_points: (N, P, 2) per sampling step is needed, not {shapes}")
    if panel < 64:
        raise ValueError(f"panel={panel}: nothing can be read below 64 pixels")
    canvas = _Canvas(image, panel)
    upper = [
        (canvas.boxes(step), "initial RoIs" if index == 0 else f"RoIs after step {index}")
        for index, step in enumerate(rois)
    ]
    lower = [
        (canvas.points(points), f"sampling step {index + 1}: {points.shape[1]} points per token")
        for index, points in enumerate(sampling_points)
    ]
    return _grid([upper, lower] if lower else [upper])


def draw_heat(image: Image.Image, rois: Tensor, heats: Sequence[tuple[Tensor, str]], panel: int = PANEL) -> Image.Image:
    """Draws captioned panels in which an image is light where the heat is, the first one with the RoIs on it.

    A white line goes around the hottest region that has half of the heat, unless all of a panel is dark.

    Args:
        image: the whole image.
        rois: (N, 4), x1, y1, x2, y2 in units of it.
        heats: (h, w) from 0, dark, to 1 on a grid over the image, and a caption.
        panel: as for `draw_rois`.
    """
    canvas = _Canvas(image, panel)
    panels = [
        (canvas.boxes(rois, canvas.heat(heat)) if index == 0 else canvas.reduced(canvas.heat(heat)), caption)
        for index, (heat, caption) in enumerate(heats)
    ]
    rows = [panels[start : start + _PER_ROW] for start in range(0, len(panels), _PER_ROW)]
    return _grid(rows, right=False)


def draw_places(image: Image.Image, places: Sequence[tuple[float, ...]]) -> Image.Image:
    """Draws boxes and points on a copy of an image, each in a color of its own.

    Args:
        image: of any size and mode.
        places: (x1, y1, x2, y2) or (x, y) in pixels of the image, as `data.places.find_places` finds them in an answer.
    """
    drawing = image.convert("RGB")
    draw = ImageDraw.Draw(drawing)
    line = max(1, round(max(image.size) / 200))
    for color, place in zip(_colors(len(places)), places, strict=True):
        if len(place) == 4:
            draw.rectangle(place, outline=color, width=line)
        else:
            (x, y), radius = place, 3 * line
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=_INK)
    return drawing


def stack(drawings: Sequence[Image.Image]) -> Image.Image:
    """Drawings below each other, at the left."""
    size = max(drawing.width for drawing in drawings), sum(drawing.height for drawing in drawings)
    sheet, top = Image.new("RGB", size, _PAPER), 0
    for drawing in drawings:
        sheet.paste(drawing, (0, top))
        top += drawing.height
    return sheet


def save_png(drawing: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    content = io.BytesIO()
    drawing.save(content, format="PNG")
    write_whole(path, content.getvalue())


def _colors(count: int) -> list[tuple[int, int, int]]:
    """Distinct bright colors, neighbors far apart: hues a golden ratio of the circle from each other."""
    shades = [
        colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.85 - 0.25 * (index % 3 == 2), 1.0) for index in range(count)
    ]
    return [(round(red * 255), round(green * 255), round(blue * 255)) for red, green, blue in shades]


class _Canvas:
    """The image on a gray surround, enlarged, to draw one panel after another on copies of it."""

    def __init__(self, image: Image.Image, panel: int):
        scale = panel * _SMOOTH / max(image.size)
        self.width, self.height = (max(_SMOOTH, round(side * scale)) for side in image.size)
        self.left, self.top = round(self.width * _MARGIN), round(self.height * _MARGIN)
        # Enlarged pixels stay visible as pixels: they are what the encoder gets.
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        self.blank = Image.new("RGB", (self.width + 2 * self.left, self.height + 2 * self.top), _SURROUND)
        self.blank.paste(image.convert("RGB").resize((self.width, self.height), how), (self.left, self.top))

    def boxes(self, rois: Tensor, image: Image.Image | None = None) -> Image.Image:
        """A panel with one rectangle per token: rois (N, 4); on the given image instead of a plain one."""
        image = self.blank.copy() if image is None else image
        draw = ImageDraw.Draw(image)
        for color, (x1, y1, x2, y2) in zip(_colors(len(rois)), _values(rois), strict=True):
            (left, top), (right, bottom) = self._pixel(min(x1, x2), min(y1, y2)), self._pixel(max(x1, x2), max(y1, y2))
            draw.rectangle((left, top, right, bottom), outline=color, width=round(1.5 * _SMOOTH))
        return self.reduced(image)

    def heat(self, heat: Tensor) -> Image.Image:
        """The image, not yet reduced, light where the heat (h, w) is near 1, dark where it is near 0."""
        levels = heat.detach().to("cpu", torch.float32).clamp(0, 1)
        ranked = levels.flatten().sort(descending=True).values
        half = ranked[int((ranked.cumsum(0) < ranked.sum() / 2).sum())]
        large = levels[None, None]
        large = F.interpolate(large, (self.height, self.width), mode="bicubic", antialias=True)[0, 0].clamp(0, 1)
        inside = (self.left, self.top)
        light = Image.fromarray((255 * (_DIM + (1 - _DIM) * large)).byte().numpy())
        picture = self.blank.crop((*inside, self.left + self.width, self.top + self.height))
        picture = Image.composite(picture, Image.new("RGB", picture.size, _NIGHT), light)
        region = Image.fromarray((255 * (large >= half) * (levels.max() > _DIM)).byte().numpy())
        line = ImageChops.difference(region, region.filter(ImageFilter.MinFilter(2 * _SMOOTH + 1)))
        picture.paste(_PAPER, mask=line)
        image = self.blank.copy()
        image.paste(picture, inside)
        return image

    def points(self, points: Tensor) -> Image.Image:
        """A panel with P dots per token: points (N, P, 2)."""
        image = self.blank.copy()
        draw = ImageDraw.Draw(image)
        radius = 2 * _SMOOTH
        for color, positions in zip(_colors(len(points)), _values(points), strict=True):
            for x, y in positions:
                column, row = self._pixel(x, y)
                draw.ellipse((column - radius, row - radius, column + radius, row + radius), color, _INK)
        return self.reduced(image)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """Image units to pixels; what is far outside is put just outside, where PIL clips it."""
        column = min(max(self.left + x * self.width, -self.width), 2.0 * self.blank.width)
        row = min(max(self.top + y * self.height, -self.height), 2.0 * self.blank.height)
        return column, row

    def reduced(self, image: Image.Image) -> Image.Image:
        """The panel at its own size."""
        return image.resize((image.width // _SMOOTH, image.height // _SMOOTH), Image.Resampling.LANCZOS)


def _values(values: Tensor) -> list[Any]:
    """Returns plain values; a model that has diverged gives no positions, and they are put outside the image."""
    return torch.nan_to_num(values.detach().to("cpu", torch.float32), nan=-2.0, posinf=3.0, neginf=-2.0).tolist()


def _grid(rows: list[list[tuple[Image.Image, str]]], right: bool = True) -> Image.Image:
    """Panels with captions above them, every row ending at the right, or beginning at the left."""
    columns = max(len(row) for row in rows)
    width, height = rows[0][0][0].size
    font = ImageFont.load_default(size=13)
    cell = max(width, *(int(font.getlength(caption)) + 2 for row in rows for _, caption in row))
    sheet = Image.new("RGB", (_GAP + columns * (cell + _GAP), _GAP + len(rows) * (_CAPTION + height + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = _GAP + line * (_CAPTION + height + _GAP)
        for column, (image, caption) in enumerate(row, start=columns - len(row) if right else 0):
            left = _GAP + column * (cell + _GAP)
            draw.text((left, top + 2), caption, fill=_INK, font=font)
            sheet.paste(image, (left, top + _CAPTION))
    return sheet

"""Images of where the model looked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from encoder import SparseFormerVisionModel
from encoder.configuration import bootstrapped_units
from encoder.image_processing import SparseFormerImageProcessor
from encoder.visualize import draw_rois, visualize
from tests import tiny

GRAY = (128, 128, 128)


def coloured(image: Image.Image) -> np.ndarray:
    """Where an image is far from gray: drawn lines and dots, not paper, captions or the gray image."""
    pixels = np.asarray(image).astype(int)
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 60


def panel(rois, points=(), image=None, size: int = 100) -> np.ndarray:
    """What is coloured in the image's own area of a single panel of 100 pixels."""
    sheet = draw_rois(image or Image.new("RGB", (50, 50), GRAY), rois, points, panel=size)
    margin = round(size * 0.08)
    top, left = 8 + 22 + margin, 8 + margin
    return coloured(sheet)[top : top + size, left : left + size]


def test_a_box_is_drawn_where_it_is():
    rows, columns = np.nonzero(panel([torch.tensor([[0.2, 0.4, 0.5, 0.9]])]))
    assert abs(columns.min() - 20) <= 2
    assert abs(columns.max() - 50) <= 2
    assert abs(rows.min() - 40) <= 2
    assert abs(rows.max() - 90) <= 2


def test_an_inverted_box_and_one_outside_are_drawn_too():
    assert np.array_equal(panel([torch.tensor([[0.5, 0.9, 0.2, 0.4]])]), panel([torch.tensor([[0.2, 0.4, 0.5, 0.9]])]))
    assert not panel([torch.tensor([[5.0, 5.0, 6.0, 1e9], [float("nan")] * 4])]).any()


def test_points_are_drawn_where_they_are():
    sheet = draw_rois(
        Image.new("RGB", (50, 50), GRAY), [torch.tensor([[0.0, 0.0, 1.0, 1.0]])], [torch.tensor([[[0.25, 0.75]]])], 100
    )
    cell = 116 + 22 + 8  # a row: panel with margins, caption, gap
    assert sheet.size[1] == 8 + 2 * cell
    rows, columns = np.nonzero(coloured(sheet)[8 + cell + 22 :])
    assert abs(columns.mean() - (8 + 8 + 25)) < 1
    assert abs(rows.mean() - (8 + 75)) < 1
    assert len(rows) < 60


def test_tokens_keep_their_colors_and_differ():
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]])
    pixels = np.asarray(draw_rois(Image.new("RGB", (50, 50), GRAY), [boxes, boxes], panel=100)).astype(int)
    mask = coloured(Image.fromarray(pixels.astype(np.uint8)))
    half = pixels.shape[1] // 2
    colours = []
    for columns in (slice(0, half), slice(half, None)):
        inside = mask[30:, columns]
        found = pixels[30:, columns][inside]
        upper = np.nonzero(inside)[0] < 54
        colours.append((np.median(found[upper], axis=0), np.median(found[~upper], axis=0)))
    (first, second), (first_again, second_again) = colours
    assert np.abs(first - first_again).max() < 30
    assert np.abs(second - second_again).max() < 30
    assert np.abs(first - second).max() > 100


def test_small_and_large_images_become_readable():
    for size in ((8, 6), (2000, 1500), (1, 1), (900, 3)):
        sheet = draw_rois(Image.new("RGB", size, GRAY), [torch.rand(4, 4)] * 3)
        assert sheet.width > 3 * 224
        assert sheet.mode == "RGB"


@pytest.mark.parametrize(
    ("rois", "points", "words"),
    [
        ([], [], "rois"),
        ([torch.zeros(1, 5, 4)], [], "rois"),
        ([torch.zeros(5, 4)], [torch.zeros(5, 2)], "sampling_points"),
    ],
)
def test_wrong_shapes_are_refused(rois, points, words):
    with pytest.raises(ValueError, match=words):
        draw_rois(Image.new("RGB", (8, 8)), rois, points)
    with pytest.raises(ValueError, match="panel=3"):
        draw_rois(Image.new("RGB", (8, 8)), [torch.zeros(1, 4)], panel=3)


def test_look_draws_over_what_the_encoder_sees():
    torch.manual_seed(0)
    config = tiny.sparseformer_config(units=bootstrapped_units(16, 32, 1))
    model = SparseFormerVisionModel(config).eval()
    # Red at the left and right, which a center crop of a wide image cuts away.
    image = Image.new("RGB", (300, 100), GRAY)
    image.paste((255, 0, 0), (0, 0, 90, 100))
    image.paste((255, 0, 0), (210, 0, 300, 100))
    cropped = visualize(model, SparseFormerImageProcessor(size=64, crop_size=64), image)
    whole = visualize(model, SparseFormerImageProcessor(do_resize=False, do_center_crop=False), image)
    red = [(np.asarray(sheet) == (255, 0, 0)).all(axis=-1).mean() for sheet in (cropped, whole)]
    assert red[0] < 0.01
    assert red[1] > 0.1
    assert cropped.width == 8 + 5 * (round(288 * 2 * 1.16) // 2 + 8)  # initial and four steps; five readings below
    assert cropped.height > 2 * 288

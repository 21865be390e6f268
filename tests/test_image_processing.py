"""The image processor: every family's values, agreement with open_clip's own preprocessing, any size, save and load."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor, SiglipImageProcessor

from encoder import PRESETS, SparseFormerConfig
from encoder.errors import WeightsError
from encoder.image_processing import SparseFormerImageProcessor, trimmed
from mllm.loading import load_processor
from mllm.prompts import encode_conversation
from tests import tiny


def noise(height: int, width: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pixel_values(processor, *images) -> torch.Tensor:
    return processor(list(images), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    "cfg",
    [
        {"size": 224},
        {"size": (64, 64), "interpolation": "bilinear", "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)},
        {"size": 63, "mean": 0.5, "std": 0.25, "interpolation": "random"},
        {"size": (48, 80), "resize_mode": "squash"},
        {"size": 32, "resize_mode": "squash", "interpolation": "bilinear"},
    ],
)
def test_agrees_with_open_clip(cfg):
    theirs = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    ours = SparseFormerImageProcessor.from_open_clip(cfg)
    # Odd differences of the sides are where croppers round differently.
    for height, width in [(100, 133), (333, 224), (64, 67), (1, 1), (30, 301), (2, 150)]:
        image = noise(height, width)
        torch.testing.assert_close(pixel_values(ours, image)[0], theirs(image), rtol=0, atol=1e-6)
    assert SparseFormerImageProcessor.from_open_clip(ours.to_open_clip()).to_dict() == ours.to_dict()


def test_from_an_open_clip_model_and_its_configuration():
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 40}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(16, vision, text)
    cfg = PreprocessCfg(size=40, mean=(0.1, 0.2, 0.3))
    open_clip.set_model_preprocess_cfg(clip, cfg.__dict__)
    processors = [
        SparseFormerImageProcessor.from_open_clip(source) for source in (clip, cfg, clip.visual.preprocess_cfg)
    ]
    assert all(processor.to_dict() == processors[0].to_dict() for processor in processors)
    assert processors[0].image_mean == (0.1, 0.2, 0.3)
    assert pixel_values(processors[0], noise(50, 60)).shape == (1, 3, 40, 40)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"resize_mode": "longest"}, "resize_mode='longest'"),
        ({"size": (32, 48)}, r"size \(32, 48\)"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"mode": "L"}, "mode='L'"),
        ({"sise": 3}, "unknown sise"),
    ],
)
def test_what_cannot_be_represented_is_refused(cfg, words):
    with pytest.raises(ValueError, match=words):
        SparseFormerImageProcessor.from_open_clip(cfg)


def test_what_open_clip_cannot_represent_is_refused():
    for processor in (
        SparseFormerImageProcessor.for_preset("sparseformer_v1_tiny"),
        SparseFormerImageProcessor(do_resize=False, do_center_crop=False),
        SparseFormerImageProcessor(resample=Image.Resampling.LANCZOS),
        SparseFormerImageProcessor(do_normalize=False),
    ):
        with pytest.raises(ValueError, match="open_clip"):
            processor.to_open_clip()


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    preset = PRESETS[name]
    processor = SparseFormerImageProcessor.for_preset(name)
    assert (processor.image_mean, processor.image_std) == (preset.mean, preset.std)
    assert pixel_values(processor, noise(300, 400)).shape == (1, 3, 224, 224)
    # An image of the mean colour comes out as zero.
    flat = Image.new("RGB", (320, 256), tuple(round(255 * value) for value in preset.mean))
    assert pixel_values(processor, flat).abs().max() < 0.01


def test_v1_resizes_to_256_and_crops_the_middle():
    # A border of 16 of 256 pixels is cut away on every side.
    image = Image.new("RGB", (256, 256), "white")
    image.paste((0, 0, 0), (16, 16, 240, 240))
    dark = SparseFormerImageProcessor.for_preset("sparseformer_v1_tiny", do_normalize=False)
    bright = SparseFormerImageProcessor.for_preset("sparseformer_btsp_augreg_base", do_normalize=False)
    assert pixel_values(dark, image).max() == 0
    assert pixel_values(bright, image).max() == 1
    with pytest.raises(WeightsError, match="sparseformer_v1_base"):
        SparseFormerImageProcessor.for_preset("sparseformer")


@pytest.mark.parametrize("kind", [CLIPImageProcessor, SparseFormerImageProcessor])
def test_of_a_line_the_middle_is_what_counts(kind):
    processor = kind(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for size in ((1, 1001), (1001, 1), (2, 1000)):
        line = noise(*size)
        short = trimmed([line], processor)
        assert 0 <= max(short[0].size) - 100 * min(line.size) <= 1  # cut alike at both ends
        assert torch.allclose(pixel_values(processor, *short), pixel_values(processor, line), atol=1e-5)
    wide = [noise(10, 999)]
    assert trimmed(wide, processor)[0] is wide[0]
    assert trimmed([line], SiglipImageProcessor())[0] is line  # which is squashed, not blown up


def test_no_tower_is_given_more_of_a_line_than_its_middle(model_dir):
    """CLIP's processor would blow up 8000 x 1 pixels to 1792000 x 224, in 7 GiB."""
    processor = load_processor(model_dir)
    processor.image_processor = CLIPImageProcessor()
    line = noise(1, 8000)
    both = [
        processor(images=[line], text=processor.image_token, return_tensors="pt"),
        encode_conversation(processor, {"messages": [tiny.user("?", 1), tiny.assistant("!")], "images": [line]}),
    ]
    expected = pixel_values(CLIPImageProcessor(), line.crop((3950, 0, 4050, 1)))
    for inputs in both:
        assert torch.equal(inputs["pixel_values"], expected)


def test_any_size_is_kept_on_request():
    processor = SparseFormerImageProcessor(do_resize=False, do_center_crop=False)
    image = noise(37, 91)
    values = pixel_values(processor, image)
    assert values.shape == (1, 3, 37, 91)
    assert np.array_equal(np.asarray(processor.image(values[0])), np.asarray(image))


def test_the_image_as_the_encoder_sees_it():
    processor = SparseFormerImageProcessor.for_preset("sparseformer_v1_tiny")
    image = noise(256, 300)
    seen = processor.image(pixel_values(processor, image)[0])
    assert np.array_equal(np.asarray(seen), np.asarray(image.crop((38, 16, 262, 240))))
    plain = SparseFormerImageProcessor(do_rescale=False, do_normalize=False)
    assert np.array_equal(
        np.asarray(plain.image(pixel_values(plain, image)[0])),
        np.asarray(SparseFormerImageProcessor().image(pixel_values(SparseFormerImageProcessor(), image)[0])),
    )


def test_modes_and_batches():
    processor = SparseFormerImageProcessor(size=32, crop_size=32)
    values = pixel_values(
        processor, noise(40, 50, "L"), noise(64, 33, "RGB"), noise(20, 90, "P"), noise(40, 50, "CMYK")
    )
    assert values.shape == (4, 3, 32, 32)
    assert values.dtype == torch.float32
    transparent = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    torch.testing.assert_close(
        pixel_values(processor, transparent), pixel_values(processor, Image.new("RGB", (9, 9), "white"))
    )


def test_a_very_long_image_is_not_blown_up():
    long = np.zeros((1, 30_000, 3), np.uint8)
    long[0, 14_900:15_100] = 255
    processor = SparseFormerImageProcessor(do_normalize=False)
    values = pixel_values(processor, Image.fromarray(long), Image.fromarray(long.transpose(1, 0, 2)))
    assert values.shape == (2, 3, 224, 224)
    assert values.min() == 1, "the middle is what is seen"


def test_save_and_load(tmp_path):
    processor = SparseFormerImageProcessor.for_preset(
        "sparseformer_v1_tiny", do_center_crop=False, size={"height": 9, "width": 8}
    )
    processor.save_pretrained(tmp_path)
    image = noise(20, 30)
    for loaded in (AutoImageProcessor.from_pretrained(tmp_path), SparseFormerImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SparseFormerImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(pixel_values(loaded, image), pixel_values(processor, image))


def test_auto_image_processor_by_model_type(tmp_path):
    """A preprocessor_config.json without the class's name still finds it through config.json."""
    SparseFormerConfig().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 16}}')
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is SparseFormerImageProcessor


def test_another_size_is_the_same_view():
    processor = SparseFormerImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    small, large = (pixel_values(processor.resized(side), noise(90, 120)) for side in (16, 64))
    assert (small.shape, large.shape) == ((1, 3, 16, 16), (1, 3, 64, 64))
    assert torch.equal(pixel_values(processor.resized(32), noise(90, 120)), pixel_values(processor, noise(90, 120)))
    assert dict(processor.size) == {"shortest_edge": 40}
    halves = torch.nn.functional.avg_pool2d(large, 4)
    assert (halves - small).abs().mean() < 0.5 * small.std()  # of noise
    squash = SparseFormerImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).resized(24)
    assert squash.output_size == (24, 24)
    with pytest.raises(ValueError, match="not square"):
        SparseFormerImageProcessor(size={"height": 32, "width": 48}, do_center_crop=False).resized(24)


def test_one_number_for_all_channels():
    image = tiny.image()
    one, three = (SparseFormerImageProcessor(image_mean=each, image_std=each) for each in (0.5, [0.5] * 3))
    pixels = [each(image, return_tensors="pt")["pixel_values"][0] for each in (one, three)]
    assert torch.equal(*pixels)
    assert one.image(pixels[0]).tobytes() == three.image(pixels[1]).tobytes()
    assert one.to_open_clip() == three.to_open_clip()

"""Images to pixel values: resize, center crop, rescale, normalize, as each family was trained, as in open_clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoImageProcessor, BaseImageProcessor, BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from data.errors import translated
from data.limits import MAX_SIDE, check_range
from encoder.configuration import SparseFormerConfig
from encoder.errors import WeightsError
from encoder.presets import PRESETS

if TYPE_CHECKING:
    import open_clip

# open_clip's "random" interpolation is for training; in evaluation it means bicubic there too.
_INTERPOLATIONS = {
    "bicubic": PILImageResampling.BICUBIC,
    "bilinear": PILImageResampling.BILINEAR,
    "random": PILImageResampling.BICUBIC,
}
# Of an image longer than this, in multiples of its shorter side, only the middle is resized before a center crop:
# a line of 1 x 30000 pixels would otherwise be blown up to 224 x 6720000.
_MAX_ASPECT = 100


class SparseFormerImagesKwargs(ImagesKwargs, total=False):
    """What the image processor takes beside transformers' own arguments; it hands them on to the encoder.

    num_tokens: of the encoder, one number for all images or one for each.
    focus_rois: for each image a list of RoIs, x1, y1, x2, y2 in fractions of the image, for additional tokens.
    """

    num_tokens: int | list[int]
    focus_rois: list[list[list[float]]]


class SparseFormerImageProcessor(PilBackend):
    """transformers' image processor with the values of the bootstrapped CLIP students as defaults.

    It resizes with PIL, as the teachers' own preprocessing does, and crops where torchvision does. The encoder takes
    images of any size: with `whole_image`'s arguments they keep their aspect ratio.

    ``processor(images, return_tensors="pt")["pixel_values"]``: (B, 3, H, W) float32. With ``do_pad`` images of several
    sizes are padded at the right and at the bottom, and ``"image_sizes"`` (B, 2) are their heights and widths.
    """

    valid_kwargs = SparseFormerImagesKwargs
    model_input_names = ["pixel_values", "image_sizes", "num_tokens", "focus_rois"]  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}  # noqa: RUF012  (transformers reads these as class attributes)
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    @classmethod
    def for_preset(cls, name: str, **changes: Any) -> SparseFormerImageProcessor:
        """The processor of the published model ``name``; ``changes`` are fields such as ``do_center_crop=False``."""
        if name not in PRESETS:
            raise WeightsError(f"{name!r} is no published SparseFormer; there are {', '.join(PRESETS)}")
        preset = PRESETS[name]
        fields = {
            "size": {"shortest_edge": preset.resize},
            "crop_size": {"height": preset.crop, "width": preset.crop},
            "image_mean": list(preset.mean),
            "image_std": list(preset.std),
        }
        return cls(**{**fields, **changes})

    @classmethod
    def from_open_clip(
        cls, source: Mapping[str, Any] | open_clip.transform.PreprocessCfg | nn.Module
    ) -> SparseFormerImageProcessor:
        """The processor that does what open_clip does to images in evaluation.

        Args:
            source: an open_clip model, its ``visual.preprocess_cfg``, or a `PreprocessCfg`.

        Raises:
            ValueError: the configuration asks for what this processor does not do.
        """
        import open_clip

        if isinstance(source, nn.Module):
            source = open_clip.get_model_preprocess_cfg(source)
        elif isinstance(source, open_clip.transform.PreprocessCfg):
            source = asdict(source)
        known = asdict(open_clip.transform.PreprocessCfg())
        if unknown := set(source) - set(known):
            raise ValueError(f"preprocess_cfg: unknown {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        cfg = known | dict(source)
        if cfg["mode"] != "RGB":
            raise ValueError(f"preprocess_cfg: mode={cfg['mode']!r}; only 'RGB' images are handled")
        if cfg["interpolation"] not in _INTERPOLATIONS:
            raise ValueError(
                f"preprocess_cfg: interpolation={cfg['interpolation']!r}; one of {', '.join(_INTERPOLATIONS)}"
            )
        size = cfg["size"]
        height, width = (size, size) if isinstance(size, int) else (size if len(size) == 2 else (size[0], size[0]))
        fields: dict[str, Any] = {
            "resample": int(_INTERPOLATIONS[cfg["interpolation"]]),
            "image_mean": _three(cfg["mean"]),
            "image_std": _three(cfg["std"]),
            "crop_size": {"height": height, "width": width},
        }
        if cfg["resize_mode"] == "squash":
            return cls(size={"height": height, "width": width}, do_center_crop=False, **fields)
        if cfg["resize_mode"] == "shortest" and height == width:
            return cls(size={"shortest_edge": height}, **fields)
        raise ValueError(
            f"preprocess_cfg: resize_mode={cfg['resize_mode']!r} at size {(height, width)} is not handled; "
            "'squash' is at any size, 'shortest' at a square one"
        )

    @classmethod
    def from_timm(cls, data_config: Mapping[str, Any]) -> SparseFormerImageProcessor:
        """The processor that does what timm does to images in evaluation.

        Args:
            data_config: as `timm.data.resolve_model_data_config` returns it.

        Raises:
            ValueError: the configuration asks for what this processor does not do.
        """
        cfg = dict(data_config)
        if cfg["interpolation"] not in _INTERPOLATIONS or cfg["crop_mode"] not in ("center", "squash"):
            raise ValueError(
                f"timm's interpolation={cfg['interpolation']!r} with crop_mode={cfg['crop_mode']!r} is not handled; "
                f"interpolation is one of {', '.join(_INTERPOLATIONS)}, crop_mode 'center' or 'squash'"
            )
        _, height, width = cfg["input_size"]
        scaled = [math.floor(side / cfg["crop_pct"]) for side in (height, width)]
        if cfg["crop_mode"] == "squash":
            size = {"height": scaled[0], "width": scaled[1]}
        elif height == width:
            size = {"shortest_edge": scaled[0]}
        else:
            raise ValueError(f"timm's crop_mode='center' at size {(height, width)} is not handled; a square one is")
        return cls(
            resample=int(_INTERPOLATIONS[cfg["interpolation"]]),
            image_mean=_three(cfg["mean"]),
            image_std=_three(cfg["std"]),
            size=size,
            crop_size={"height": height, "width": width},
        )

    @classmethod
    def from_transformers(cls, processor: BaseImageProcessor) -> SparseFormerImageProcessor:
        """The processor with the steps and values of another one of transformers', such as CLIP's or SigLIP's.

        Raises:
            ValueError: it does more than resizing, cropping the center, rescaling and normalizing.
        """
        values = {name: value for name, value in processor.to_dict().items() if value is not None}
        steps = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
        if more := sorted(name for name in values if name.startswith("do_") and values[name] and name not in steps):
            raise ValueError(f"{type(processor).__name__} has {', '.join(more)}, which is not handled")
        names = steps | {"resample", "rescale_factor", "size", "crop_size", "image_mean", "image_std"}
        return cls(**{**dict.fromkeys(steps, False), **{name: values[name] for name in names & set(values)}})

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of what it returns; ValueError if they depend on the image."""
        size = dict(self.crop_size if self.do_center_crop else self.size if self.do_resize else {})
        if set(size) != {"height", "width"}:
            raise ValueError("the images' size is not fixed: neither a center crop nor a height and width is set")
        return size["height"], size["width"]

    def resized(self, side: int) -> SparseFormerImageProcessor:
        """The same processor for square images of another size: what it resizes to and what it crops change alike.

        Args:
            side: of the images that it returns, in pixels.

        Raises:
            ValueError: the size of its images is not fixed, or they are not square.
        """
        height, width = self.output_size
        if height != width:
            raise ValueError(f"images of {height}x{width} pixels are not square")
        scaled = {
            name: {key: round(pixels * side / height) for key, pixels in dict(getattr(self, name)).items()}
            for name in ("size", "crop_size")
        }
        processor = deepcopy(self)
        processor.size = SizeDict(**scaled["size"])  # type: ignore[assignment]  # a dict only until it is made
        processor.crop_size = SizeDict(**scaled["crop_size"])  # type: ignore[assignment]
        return processor

    def framed_as(self, other: SparseFormerImageProcessor) -> SparseFormerImageProcessor:
        """A processor whose images have this one's size and values, and show what those of ``other`` show.

        Raises:
            ValueError: the size of the images of one is not fixed, or they are not square.
        """
        processor = other.resized(self.output_size[0])
        for name in ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"):
            setattr(processor, name, getattr(self, name))
        return processor

    def resize(self, image: np.ndarray, size: SizeDict, resample: Any = None, **kwargs: Any) -> np.ndarray:  # type: ignore[override]
        """(3, H, W) -> (3, H', W'), also to a number of pixels, with the aspect ratio kept as far as it can be."""
        if size.max_pixels:
            height, width = image.shape[-2:]
            pixels = min(max(height * width, size.min_pixels or 0), size.max_pixels)
            factor = math.sqrt(pixels / (height * width))
            sides = (max(1, min(round(side * factor), MAX_SIDE)) for side in (height, width))
            size = SizeDict(**dict(zip(("height", "width"), sides, strict=True)))
        resized: np.ndarray = super().resize(image, size, resample, **kwargs)
        return resized

    def to_open_clip(self) -> dict[str, Any]:
        """open_clip's ``preprocess_cfg`` for this processor; ValueError if open_clip has none that does the same."""
        names = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}
        size, crop = dict(self.size), dict(self.crop_size)
        if not (self.do_resize and self.do_rescale and self.do_normalize) or self.resample not in names:
            raise ValueError(
                "open_clip resizes (bicubic or bilinear), rescales and normalizes; this processor does not"
            )
        if self.do_center_crop and size == {"shortest_edge": crop["height"]} and crop["height"] == crop["width"]:
            resize_mode, pixels = "shortest", (crop["height"], crop["width"])
        elif not self.do_center_crop and set(size) == {"height", "width"}:
            resize_mode, pixels = "squash", (size["height"], size["width"])
        else:
            raise ValueError(f"open_clip cannot resize to {size} and then crop to {crop}; it crops at the resized side")
        return {
            "size": list(pixels),
            "mode": "RGB",
            "mean": _three(self.image_mean),
            "std": _three(self.image_std),
            "interpolation": names[PILImageResampling(self.resample)],
            "resize_mode": resize_mode,
            "fill_color": 0,
        }

    def center_crop(self, image: np.ndarray, size: SizeDict, **kwargs: Any) -> np.ndarray:  # type: ignore[override]
        """(3, H, W) -> (3, size.height, size.width): torchvision's crop, whose rounding open_clip has."""
        return np.asarray(tvF.center_crop(torch.from_numpy(image), [size.height, size.width]))

    def _preprocess(  # type: ignore[override]
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        do_pad: bool | None = None,
        num_tokens: int | Sequence[int] | None = None,
        focus_rois: Sequence[Sequence[Sequence[float]]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if do_resize and do_center_crop:
            cuts = [_middle(*image.shape[-2:]) for image in images]
            images = [image[:, rows, columns] for image, (rows, columns) in zip(images, cuts, strict=True)]
        tensors, pad_size = kwargs.pop("return_tensors", None), kwargs.pop("pad_size", None)
        data = super()._preprocess(
            images,
            do_resize,
            size,
            resample,
            do_center_crop,
            do_pad=False,
            pad_size=None,
            return_tensors=None,
            **kwargs,
        )
        if do_pad:
            data["image_sizes"] = [image.shape[-2:] for image in data["pixel_values"]]
            data["pixel_values"] = self.pad(data["pixel_values"], pad_size)
        if num_tokens is not None:
            data["num_tokens"] = [num_tokens] * len(images) if isinstance(num_tokens, int) else list(num_tokens)
        if focus_rois is not None and (most := max(map(len, focus_rois), default=0)):
            data["focus_rois"] = [[*rois, *[[math.nan] * 4] * (most - len(rois))] for rois in focus_rois]
        for name in ("num_tokens", "focus_rois"):
            if len(data.get(name, images)) != len(images):
                raise ValueError(f"{name}: {len(data[name])} are given for {len(images)} images")
        return BatchFeature(dict(data), tensor_type=tensors)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | None = None
    ) -> list[torch.Tensor]:
        """The class of every pixel, (H, W) of each image: what transformers' pipeline asks for.

        Args:
            outputs: with logits (B, K, h, w). target_sizes: height and width of each image; None: those of the logits.
        """
        sizes = target_sizes or [outputs.logits.shape[-2:]] * len(outputs.logits)
        each = zip(outputs.logits.float(), sizes, strict=True)
        return [F.interpolate(logits[None], tuple(size), mode="bilinear")[0].argmax(dim=0) for logits, size in each]

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: torch.Tensor | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """The objects of each image: "scores", "labels", "boxes" (n, 4), x1, y1, x2, y2, as the pipeline asks.

        Args:
            outputs: with logits (B, N, K + 1) and pred_boxes (B, N, 4). threshold: least score.
            target_sizes: (B, 2), height and width of each image, in which the boxes then are.
        """
        scores, labels = outputs.logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
        boxes = box_convert(outputs.pred_boxes, "cxcywh", "xyxy")
        if target_sizes is not None:
            boxes = boxes * torch.as_tensor(target_sizes).to(boxes)[:, None, [1, 0, 1, 0]]
        return [
            {"scores": score[score > threshold], "labels": label[score > threshold], "boxes": box[score > threshold]}
            for score, label, box in zip(scores, labels, boxes, strict=True)
        ]

    def image(self, pixel_values: torch.Tensor) -> Image.Image:
        """The image that the encoder sees: (3, H, W) normalized pixel values back to an RGB image."""
        pixels = pixel_values.detach().to("cpu", torch.float32)
        if self.do_normalize:
            mean, std = (torch.tensor(_three(values))[:, None, None] for values in (self.image_mean, self.image_std))
            pixels = pixels * std + mean
        if not self.do_rescale:
            pixels = pixels * self.rescale_factor
        return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def whole_image(side: int) -> dict[str, Any]:
    """Arguments of `SparseFormerImageProcessor` for whole images, their aspect ratio kept, of about side² pixels."""
    check_range("image_size", side, 1, MAX_SIDE)
    size = {"min_pixels": side * side, "max_pixels": side * side}
    return {"do_resize": True, "do_center_crop": False, "do_pad": True, "size": size}


def _three(value: float | tuple[float, ...] | list[float]) -> list[float]:
    """open_clip and transformers allow one number for all channels."""
    return [float(value)] * 3 if isinstance(value, int | float) else [float(number) for number in value]


def trimmed(images: Any, image_processor: Any) -> Any:
    """What to give to any image processor of transformers in place of images, some of which may be mere lines.

    Of those the middle is left where the processor resizes the shorter side and then crops the center: up to half a
    pixel of rounding the values are the same, and neither time nor memory is spent on what is cropped away.
    """
    if isinstance(images, list | tuple):
        return [trimmed(image, image_processor) for image in images]
    crops = getattr(image_processor, "do_resize", False) and getattr(image_processor, "do_center_crop", False)
    if not crops or not isinstance(images, Image.Image):
        return images
    rows, columns = _middle(images.height, images.width)
    return images.crop((columns.start, rows.start, columns.stop, rows.stop)) if rows.start or columns.start else images


def _middle(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of an image, without the ends of one longer than `_MAX_ASPECT` times its shorter side."""
    limit = _MAX_ASPECT * min(height, width)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    return slice(top, height - top), slice(left, width - left)


def seen_box(image_processor: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Computes which part of an image a model with this image processor sees.

    Args:
        image_processor: any of transformers' that resizes, crops the center or pads at the right and bottom.
        width: of the image, in pixels.
        height: the same.

    Returns:
        the box (x1, y1, x2, y2) in fractions of the image; beyond 0 and 1 where a crop is larger than what it crops.
    """
    if not getattr(image_processor, "do_center_crop", False):
        return 0.0, 0.0, 1.0, 1.0
    seen_width, seen_height = width, height
    if getattr(image_processor, "do_resize", False):
        size = dict(image_processor.size)
        if set(size) == {"height", "width"}:
            seen_width, seen_height = size["width"], size["height"]
        else:  # the longer side is rounded down, as transformers and torchvision do
            shorter, side = min(width, height), size["shortest_edge"]
            seen_width, seen_height = int(side * width / shorter), int(side * height / shorter)
    box = []
    for seen, crop in (
        (seen_width, image_processor.crop_size["width"]),
        (seen_height, image_processor.crop_size["height"]),
    ):
        half = (seen - crop) / 2
        # torchvision rounds what it cuts, transformers cuts the fraction off, and both do so with what they pad
        start = round(half) if half > 0 and isinstance(image_processor, SparseFormerImageProcessor) else int(half)
        box.append((start / seen, (start + crop) / seen))
    (left, right), (top, bottom) = box
    return left, top, right, bottom


def load_image_processor(directory: Path, auto: Any = AutoImageProcessor) -> Any:
    """The image processor of a directory.

    Args:
        auto: the class that it is read by.
    Raises:
        WeightsError: it is not there, or takes no image.
    """
    with translated(f"{directory}: no image processor can be read", error=WeightsError):
        image_processor = auto.from_pretrained(str(directory), local_files_only=True)
    check_image_processor(directory, image_processor)
    return image_processor


def check_image_processor(directory: str | Path, image_processor: Any) -> None:
    """Raise WeightsError unless an image goes through: transformers looks at most of the fields only then."""
    with translated(f"{directory}: its image processor takes no image", error=WeightsError):
        for name in ("size", "crop_size"):
            for side, pixels in dict(getattr(image_processor, name, None) or {}).items():
                check_range(f"{directory}: its image processor's {name}.{side}", pixels, 1, MAX_SIDE)
        with np.errstate(all="ignore"):
            pixels = image_processor([Image.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
        if not pixels.isfinite().all():
            raise ValueError("image_std must be positive, and image_mean and rescale_factor finite")


# The same class under both of transformers' names of backends: there is one way to resize here.
AutoImageProcessor.register(
    SparseFormerConfig,
    image_processor_classes={"torchvision": SparseFormerImageProcessor, "pil": SparseFormerImageProcessor},
    exist_ok=True,
)


def image_size(image_processor: Any) -> tuple[int, int]:
    """Returns height and width of the images that a model with this image processor sees, of square ones if any."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "max_pixels" in size:
        return math.isqrt(size["max_pixels"]), math.isqrt(size["max_pixels"])
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])

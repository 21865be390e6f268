"""`mllm visualize`: draw where an encoder looks in an image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InputError
from data.files import check_output, read_json

if TYPE_CHECKING:
    from encoder import SparseFormerImageProcessor, SparseFormerVisionModel

HELP = "Draw where an encoder looks in an image: its RoIs step by step, and the points that it reads."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="image file")
    parser.add_argument("--out", required=True, metavar="PNG", help="where to write the drawing")
    parser.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="directory of a SparseFormer, of a model for images or of its adapter, or the name of a published "
        "SparseFormer, whose weights are downloaded; default: the embedded model",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="look with this number of tokens, the class token counted, instead of the encoder's own",
    )


def run(args: argparse.Namespace) -> None:
    out = Path(args.out)
    check_output("--out", out)

    from data.images import open_image

    image = open_image(args.image)

    from encoder.visualize import save_png, visualize
    from mllm.loading import EMBEDDED, quiet

    quiet()
    encoder, image_processor = load_encoder(args.model or str(EMBEDDED))
    try:
        drawing = visualize(encoder, image_processor, image, args.tokens)
    except ValueError as error:
        raise InputError(f"--tokens {args.tokens}: {error}") from error
    save_png(drawing, out)
    sys.stdout.write(f"{out}\n")


def load_encoder(model: str) -> tuple[SparseFormerVisionModel, SparseFormerImageProcessor]:
    """The SparseFormer of a directory, or a published one by name, on the CPU.

    Args:
        model: directory of a SparseFormer, of a model for images or of an adapter; or a name in `encoder.PRESETS`.
    Raises:
        InputError: neither a directory nor a name; a directory without SparseFormer.
        WeightsError: weights that cannot be had or do not fit.
    """
    from encoder import PRESETS, SparseFormerImageProcessor, SparseFormerVisionModel, load_official, load_tower
    from encoder.image_processing import load_image_processor
    from mllm.loading import find_model, load_model

    if model in PRESETS and not Path(model).is_dir():
        return load_official(model), SparseFormerImageProcessor.for_preset(model)
    folder = find_model(model)
    if not folder.is_dir():
        raise InputError(f"--model {model}: no such directory, and no published SparseFormer; {', '.join(PRESETS)}")
    if _model_type(folder) == "sparseformer":
        if not (folder / "preprocessor_config.json").is_file():
            raise InputError(f"--model {folder}: has no preprocessor_config.json; save its image processor there")
        return load_tower(folder), load_image_processor(folder, SparseFormerImageProcessor)

    whole, processor = load_model(folder, device="cpu", dtype="float32")
    tower = whole.model.vision_tower
    if not isinstance(tower, SparseFormerVisionModel):
        raise InputError(f"--model {folder}: its encoder is a {tower.config.model_type!r}, which has no RoIs to draw")
    return tower, processor.image_processor


def _model_type(folder: Path) -> str | None:
    """`model_type` of config.json; None for what is judged later, by the loader of whole models."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    return config.get("model_type") if isinstance(config, dict) else None

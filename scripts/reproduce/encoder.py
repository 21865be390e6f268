"""A published tower as an encoder's directory, as recipes and commands take it:

    python scripts/reproduce/encoder.py NAME --weights FILE --out DIR      a published SparseFormer
    python scripts/reproduce/encoder.py DIRECTORY --out DIR --whole-image  a tower of transformers: weights are links

With --whole-image an image is squashed to the encoder's square instead of cut to its middle, so that all of it is seen.
With --text NAME --text-weights FILE the SparseFormer becomes a whole CLIP, with the text tower of open_clip's NAME.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_new_folder, whole_folder
from encoder import PRESETS, SparseFormerImageProcessor, load_official
from encoder.clip import save_clip, save_tower
from encoder.image_processing import load_image_processor
from encoder.teachers import load_teacher


def squash(processor: Any) -> Any:
    """Changes an image processor so that it squashes images to the square that it would have cut from them."""
    processor.size = dict(processor.crop_size)
    processor.do_center_crop = False
    return processor


def save_published(name: str, weights: Path, out: Path, whole_image: bool, text: str | None, tag: str | None) -> None:
    """Writes a published SparseFormer, with the text tower of its teacher if that is named."""
    model, processor = load_official(name, weights), SparseFormerImageProcessor.for_preset(name)
    if whole_image:
        squash(processor)
    if text is None:
        save_tower(out, model, processor)
        return
    side = load_teacher(text, tag).text
    if side is None:
        raise InputError(f"--text {text}: has no text tower")
    save_clip(out, side.clip, model, processor, side.model_config, side.tokenizer)


def link_tower(source: Path, out: Path, whole_image: bool) -> None:
    """Writes links to a tower's files, and its image processor."""
    processor = load_image_processor(source)
    if whole_image:
        squash(processor)
    with whole_folder(out) as partial:
        for file in source.iterdir():
            if file.is_file() and file.name not in ("preprocessor_config.json", "processor_config.json"):
                (partial / file.name).symlink_to(os.path.relpath(file, out))
        processor.save_pretrained(partial)


def main() -> int:
    """Writes the directory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", metavar="NAME|DIRECTORY")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of a published SparseFormer: the release file")
    parser.add_argument("--text", metavar="NAME", help="of open_clip's models: the one with its text tower")
    parser.add_argument("--text-weights", metavar="TAG|FILE", help="of that model")
    parser.add_argument("--whole-image", action="store_true", help="squash images instead of cutting them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    try:
        check_new_folder(f"--out {args.out}", args.out)
        if args.source in PRESETS:
            save_published(args.source, args.weights, args.out, args.whole_image, args.text, args.text_weights)
        else:
            link_tower(Path(args.source), args.out, args.whole_image)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

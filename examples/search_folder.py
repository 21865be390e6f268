"""Finds the images below a folder that texts describe best, with a CLIP of open_clip's or a bootstrapped SparseFormer.

$ python examples/search_folder.py photos "a dog on a beach" "a red car" --model runs/clip-l
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from data.errors import InputError
from data.image_folders import ImageFolder
from data.images import open_image
from encoder.evaluation.clip_models import load_clip_model
from encoder.evaluation.embedding import Runtime, embed_images, embed_texts


class Files(Dataset[Any]):
    """Images with their files; None instead of one that cannot be read."""

    def __init__(self, folder: str) -> None:
        self.files = ImageFolder(folder).files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        try:
            return {"image": open_image(self.files[index]), "file": self.files[index]}
        except InputError as error:
            sys.stderr.write(f"left out: {error}\n")
            return None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--model", default="ViT-B-32", help="directory, or a name of open_clip's")
    parser.add_argument("--pretrained", help="weights of a name: a tag or a file")
    parser.add_argument("--best", type=int, default=5)
    args = parser.parse_args(arguments)
    model, runtime = load_clip_model(args.model, args.pretrained), Runtime()
    images = embed_images(model.clip, model.prepare, Files(args.folder), runtime, lambda sample: sample["file"])
    if model.tokenizer is None:
        raise InputError(f"--model {args.model}: is a classifier, which knows no texts")
    likeness = embed_texts(model.clip, model.tokenizer, args.texts, runtime) @ images.vectors.T
    for text, row in zip(args.texts, likeness, strict=True):
        print(text)
        for score, place in zip(*row.topk(min(args.best, len(row))), strict=True):
            print(f"  {score:.3f}  {images.values[place]}")


if __name__ == "__main__":
    main()

"""Writes a line of JSON for each image below a folder; started again, it goes on where it ended.

$ python examples/caption_folder.py photos captions.jsonl --model runs/mine/model --prompt "Describe the image."
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import InputError
from data.files import read_records
from data.image_folders import ImageFolder
from data.images import open_image
from mllm.generation import answer, question
from mllm.loading import EMBEDDED, load_model, quiet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--prompt", default="describe the picture.")
    parser.add_argument("--tokens", type=int, help="per image, of a model for every budget")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args(arguments)
    quiet()
    done = {record["image"] for _, record in read_records(args.out)} if args.out.is_file() else set()
    files = [file for file in ImageFolder(args.folder).files if file not in done]
    model, processor = load_model(args.model)
    with args.out.open("a", encoding="utf-8") as out:
        for start in range(0, len(files), args.batch):
            images = {}
            for file in files[start : start + args.batch]:
                try:
                    images[file] = open_image(file)
                except InputError as error:
                    sys.stderr.write(f"left out: {error}\n")
            asked = [question(args.prompt, [image], args.tokens) for image in images.values()]
            for file, said in zip(images, answer(model, processor, asked) if asked else [], strict=True):
                out.write(json.dumps({"image": file, "caption": said}, ensure_ascii=False) + "\n")
            out.flush()
            sys.stderr.write(f"{min(start + args.batch, len(files))} of {len(files)}\n")


if __name__ == "__main__":
    main()

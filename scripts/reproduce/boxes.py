"""LLaVA's instructions with their boxes as this project has them:

    python scripts/reproduce/boxes.py MIX --images DIR --out FILE

In LLaVA's mixture a box is written into the words, `[0.39, 0.52, 0.6, 0.7]`, in fractions of the image padded to a
square (https://github.com/haotian-liu/LLaVA/issues/606). Here each becomes `<bbox>`, and the box, in fractions of the
image itself, goes to the sample's `objects`. All else stays as it is; so do samples whose image is missing, which
`mllm check-data` then names.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from data.errors import InputError, translated
from data.files import json_bytes, read_json, write_whole
from data.grounding import PLACE

_FRACTION = r"(0(?:\.\d+)?|1(?:\.0+)?)"
_BOX = re.compile(rf"\[{', ?'.join([_FRACTION] * 4)}\]")


def unpadded(box: tuple[float, ...], width: int, height: int) -> list[float]:
    """A box in fractions of the square in the middle of which an image lies, in fractions of that image."""
    side = max(width, height)
    sizes, starts = (width, height), ((side - width) // 2, (side - height) // 2)
    places = [(value * side - starts[axis % 2]) / sizes[axis % 2] for axis, value in enumerate(box)]
    return [round(min(max(place, 0.0), 1.0), 4) for place in places]


def with_objects(sample: dict[str, Any], images: Path) -> dict[str, Any]:
    """A sample with its boxes in `objects`; the sample itself if it has none, or no image."""
    turns = sample["conversations"]
    found = [match for turn in turns for match in _BOX.findall(turn["value"])]
    file = images / str(sample.get("image", ""))
    if not found or not file.is_file():
        return sample
    with translated(str(file), "fetch it again"), Image.open(file) as image:
        width, height = image.size
    boxes = [unpadded(tuple(map(float, match)), width, height) for match in found]
    marked = [{**turn, "value": _BOX.sub(PLACE, turn["value"])} for turn in turns]
    return {**sample, "conversations": marked, "objects": {"bbox": boxes, "bbox_type": "norm1"}}


def main() -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mix", type=Path, metavar="MIX", help="llava_v1_5_mix665k.json")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="from which its names lead")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    try:
        samples = read_json(args.mix)
        with translated(f"{args.mix}: is no list of LLaVA's samples"):
            changed = [with_objects(sample, args.images) for sample in samples]
        write_whole(args.out, json_bytes(changed))
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    boxed = sum("objects" in sample for sample in changed)
    sys.stderr.write(f"{args.out}: {boxed:,} of {len(changed):,} samples have boxes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Our figures on ImageNet beside the papers': python scripts/reproduce/imagenet_table.py OUT/NAME ... >TABLE

Beside each NAME lies NAME.json, which `mllm zeroshot --json` wrote of it and, for a CLIP, of the CLIP it comes from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from data.errors import InputError
from data.files import read_json, read_text

PUBLISHED = Path(__file__).with_name("published.yaml")


def main() -> int:
    """Prints the table."""
    published = yaml.safe_load(read_text(PUBLISHED))["imagenet"]
    lines = ["| | tokens | GMACs | images | how | top-1, ours | top-5, ours | top-1, published |"]
    lines.append("|---|---:|---:|---:|---|---:|---:|---:|")
    try:
        for place in map(Path, sys.argv[1:]):
            report = read_json(place.with_name(f"{place.name}.json"))
            how = "zero-shot" if len(report["models"]) > 1 else "its own classifier"
            for model in report["models"]:
                name = Path(model["model"]).name
                cells = [name, model["tokens"], f"{model['gmacs']:.1f}", report["images"], how]
                cells += [f"{100 * model[key]:.2f}" for key in ("top_1", "top_5")]
                lines.append(f"| {' | '.join(map(str, cells))} | {published.get(name, '')} |")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

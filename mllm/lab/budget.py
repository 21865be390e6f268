"""What accuracy a budget of tokens and pixels gives: the page docs/budget.md, from what scripts/budget.sh measured.

    python -m mllm.lab.budget OUT.md FOLDER

FOLDER holds `tokens.json` (`mllm eval synthetic --tokens ...` of the model for every budget), `single-N.json` (the same
of a model that was trained with N tokens alone), `size-S.json` (`--image-size S --by size`) and `dense-S.json` (the
same questions to a model that is given all patches of the encoder's teacher, whose images have that side). OUT.svg is
drawn beside the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import read_json, write_whole
from mllm.lab.benchmarking.report import Section, Table, as_markdown, check_plot, plot_lines

Report = Mapping[str, Any]
OPENING = """# Any budget

Made by `scripts/budget.sh`, and not by hand: one small model, trained on generated scenes with a random number of
tokens and a random size for each image (`scripts/recipes/small`: 4 to 64 tokens, 112 to 336 pixels), asked with each
number of tokens, and at each size.
Accuracies in percent of answers that match exactly; three standard errors are about {error:.1f} points.

![accuracy against tokens and pixels]({picture})
"""


def read_reports(file: Path) -> list[dict[str, Any]]:
    """The evaluations that `mllm eval --json` wrote into a file, one for each number of tokens."""
    content: Any = read_json(file)
    reports: list[dict[str, Any]] = content.get("budgets", [content])
    return reports


def overall(report: Report) -> float:
    """Accuracy in percent over all questions."""
    value: float = report["groups"]["overall"]["accuracy"]
    return value


def by_tokens(elastic: list[dict[str, Any]], singles: Mapping[int, Report]) -> Section:
    """Accuracy against the number of tokens, beside models that were trained for one."""
    categories = [name for name in elastic[0]["groups"] if name != "overall"]
    lines = []
    for report in elastic:
        tokens = report["tokens_per_image"]
        alone = singles.get(tokens)
        beside = ["", ""] if alone is None else [f"{overall(alone):.1f}", f"{overall(report) - overall(alone):+.1f}"]
        accuracies = [f"{report['groups'][name]['accuracy']:.0f}" for name in categories]
        lines.append([str(tokens), f"{overall(report):.1f}", *beside, *accuracies])
    guess = elastic[0]["groups"]
    baseline = [f"{guess[name]['text-only baseline']:.0f}" for name in categories]
    lines.append(["no image", f"{guess['overall']['text-only baseline']:.1f}", "", "", *baseline])
    headings = ["tokens", "one model for all", "a model for this number", "difference", *categories]
    about = (
        f"{elastic[0]['count']} questions, images of {elastic[0]['image_size']} x {elastic[0]['image_size']} pixels."
    )
    return Section("Accuracy and tokens", about, [Table(0, headings, lines)])


def by_size(sizes: Mapping[int, list[dict[str, Any]]], dense: Mapping[int, Report]) -> Section:
    """Accuracy against the images' size, by the size of what is asked about."""
    first = next(iter(sizes.values()))[0]
    groups = [name for name in first["groups"] if name != "overall"]

    def line(tokens: str, size: int, report: Report) -> list[str]:
        accuracies = [f"{report['groups'][name]['accuracy']:.0f}" for name in groups]
        return [tokens, str(size), f"{overall(report):.1f}", *accuracies]

    lines = [line(str(each["tokens_per_image"]), size, each) for size, reports in sizes.items() for each in reports]
    lines.sort(key=lambda line: (int(line[0]), int(line[1])))
    lines += [line(f"all {each['tokens_per_image']} patches", size, each) for size, each in dense.items()]
    counts = ", ".join(f"{first['groups'][name]['n']} of {name}" for name in groups)
    about = (
        f"{first['count']} questions about scenes drawn once, seen at each size; the columns are sizes of objects and "
        f"letters in the image's shorter side ({counts})."
    )
    return Section("Accuracy and pixels", about, [Table(0, ["tokens", "pixels", "overall", *groups], lines)])


def main(arguments: list[str] | None = None) -> None:
    """Writes the page and its picture."""
    parser = argparse.ArgumentParser(prog="python -m mllm.lab.budget", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.md")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    args = parser.parse_args(arguments)
    picture = args.out.with_suffix(".svg")
    check_plot(picture, str(args.out))
    elastic = read_reports(args.folder / "tokens.json")
    singles = {int(each.stem.split("-")[1]): read_reports(each)[0] for each in args.folder.glob("single-*.json")}
    sizes = {int(each.stem.split("-")[1]): read_reports(each) for each in args.folder.glob("size-*.json")}
    sizes = dict(sorted(sizes.items()))
    dense = {int(each.stem.split("-")[1]): read_reports(each)[0] for each in args.folder.glob("dense-*.json")}
    error = 300 * (0.25 / elastic[0]["count"]) ** 0.5
    sections = [by_tokens(elastic, singles), *([by_size(sizes, dense)] if sizes else [])]
    alone = [(float(tokens), overall(each)) for tokens, each in sorted(singles.items())]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {
        "tokens of an image": {
            "one model for all": [(float(each["tokens_per_image"]), overall(each)) for each in elastic],
            **({"models for one number": alone} if alone else {}),
        }
    }
    across: dict[str, list[tuple[float, float]]] = {}
    for size, reports in sizes.items():
        for each in reports:
            across.setdefault(f"{each['tokens_per_image']} tokens", []).append((size, overall(each)))
    for size, each in dense.items():
        across[f"all {each['tokens_per_image']} patches of the dense tower"] = [(size, overall(each))]
    if across:
        curves["side of the image, pixels"] = across
    plot_lines(curves, "accuracy, %", picture)
    text = "\n".join([OPENING.format(error=error, picture=picture.name), *map(as_markdown, sections)])
    write_whole(args.out, text.encode())


if __name__ == "__main__":
    try:
        main()
    except InputError as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)

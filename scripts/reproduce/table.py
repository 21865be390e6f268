"""Our evaluations beside published ones, as Markdown: python scripts/reproduce/table.py DIR >TABLE

DIR/MODEL/BENCHMARK holds what `mllm eval` wrote. A row is ours or published, and says which; where a cell of ours is
"upload" the benchmark's server scores the file that `mllm eval` wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from data.benchmarks import BENCHMARKS
from data.benchmarks.table import collect
from data.errors import InputError
from data.files import read_text

NAMES = ("vqav2", "gqa", "textvqa", "pope", "scienceqa", "mme", "mmbench", "refcoco")
PUBLISHED = Path(__file__).with_name("published.yaml")


def table(ours: dict[str, dict[str, Any]], published: list[dict[str, Any]]) -> str:
    """The lines of the table: first ours, by model and benchmark, then the published ones."""
    titles = " | ".join(BENCHMARKS[name].title for name in NAMES)
    lines = [f"| | whose | tokens | {titles} |", "|---|---|---:|" + "---:|" * len(NAMES)]
    for model, results in ours.items():
        tokens = next(iter(results.values()))["tokens_per_image"]
        scores = [_cell(results[name]["overall"], "upload") if name in results else "" for name in NAMES]
        lines.append(f"| **{model}** | ours, measured here | {tokens:g} | " + " | ".join(scores) + " |")
    for row in published:
        scores = [_cell(row.get(name), "") for name in NAMES]
        lines.append(f"| {row['model']} | published, {row['source']} | {row['tokens']} | " + " | ".join(scores) + " |")
    return "".join(f"{line}\n" for line in lines)


def _cell(score: float | None, blank: str) -> str:
    return blank if score is None else f"{score:.1f}"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args()
    try:
        ours: dict[str, dict[str, Any]] = {}
        for row in collect([args.folder]):
            ours.setdefault(Path(row["folder"]).parent.name, {})[row["benchmark"]] = row
        sys.stdout.write(table(ours, yaml.safe_load(read_text(PUBLISHED))["llava15"]))
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

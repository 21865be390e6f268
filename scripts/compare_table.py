"""docs/results.md from what scripts/compare_row.sh wrote: python scripts/compare_table.py [DIR] >docs/results.md

Every cell is the mean over the seeds, with the lowest and the highest in brackets. Rows and seeds that are not there,
or not finished, are named on stderr and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

ROWS = {
    "sparse": "SparseFormer, `mlp2x_gelu`, embedding of RoIs",
    "dense": "teacher, all patches, `mlp2x_gelu`",
    "dense-pool": "teacher, `average_pool`",
    "dense-pixel-shuffle": "teacher, `pixel_shuffle`",
    "dense-resampler": "teacher, `resampler`",
}
OURS = "sparse"


@dataclass(frozen=True)
class Run:
    """What one seed of a row came to; accuracies in percent."""

    accuracies: dict[str, float]  # by kind of question, and "overall"
    baseline: dict[str, float]  # text-only: of the best guess that has not seen the image
    tokens: int  # of an image
    seconds: float  # of a question
    samples: float  # of training, per second; the median of the log's entries, so that a pause does not count
    steps: int  # of stage 2
    questions: int
    projector: int  # its parameters


def read_run(folder: Path) -> Run:
    """What a finished seed wrote.

    Raises:
        OSError, ValueError, KeyError: it is not finished, or damaged.
    """
    result: dict[str, Any] = json.loads((folder / "eval" / "result.json").read_text())
    metrics: dict[str, Any] = json.loads((folder / "full" / "metrics.json").read_text())
    log = [entry for entry in metrics["log"] if "samples_per_second" in entry]
    groups = result["groups"]
    return Run(
        {kind: group["accuracy"] for kind, group in groups.items()},
        {kind: group["text-only baseline"] for kind, group in groups.items()},
        result["tokens_per_image"],
        result["seconds_per_question"],
        median(entry["samples_per_second"] for entry in log),
        log[-1]["step"],
        result["count"],
        metrics["parameters"]["projector"]["all"],
    )


def read_rows(results: Path, seeds: Sequence[str]) -> dict[str, dict[str, Run]]:
    """The finished seeds of every row that has some."""
    rows: dict[str, dict[str, Run]] = {}
    for row in ROWS:
        for seed in seeds:
            folder = results / row / seed
            try:
                rows.setdefault(row, {})[seed] = read_run(folder)
            except (OSError, ValueError, KeyError) as error:
                sys.stderr.write(f"{folder}: left out: {' '.join(str(error).split())}\n")
    return {row: runs for row, runs in rows.items() if runs}


def check_alike(rows: dict[str, dict[str, Run]]) -> None:
    """Raise ValueError where runs that are to be compared were trained or asked otherwise."""
    for name in ("steps", "questions", "baseline"):
        values = {json.dumps(getattr(run, name), sort_keys=True) for runs in rows.values() for run in runs.values()}
        if len(values) > 1:
            raise ValueError(f"the runs differ in {name}: {', '.join(sorted(values))}; run them again, all alike")


def cell(values: Sequence[float], digits: int) -> str:
    """Mean, and the range where there is one."""
    text = f"{mean(values):.{digits}f}"
    low, high = (f"{extreme:.{digits}f}" for extreme in (min(values), max(values)))
    return text if len(values) == 1 else f"{text} ({low} to {high})"


def table(rows: dict[str, dict[str, Run]]) -> str:
    """Markdown: a line for each row, and one for the text-only baseline."""
    first = next(iter(next(iter(rows.values())).values()))
    kinds = list(first.accuracies)
    heads = ["row", "what is seen", "tokens", "projector", *kinds, "s/question", "samples/s", "seeds"]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for row, found in rows.items():
        runs = list(found.values())
        accuracies = [cell([run.accuracies[kind] for run in runs], 1) for kind in kinds]
        costs = [cell([run.seconds for run in runs], 4), cell([run.samples for run in runs], 0)]
        lines.append(
            [
                f"`{row}`",
                ROWS[row],
                str(runs[0].tokens),
                f"{runs[0].projector:,}",
                *accuracies,
                *costs,
                ", ".join(found),
            ]
        )
    lines.append(["", "text-only baseline", "0", "", *(f"{first.baseline[k]:.1f}" for k in kinds), "", "", ""])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def findings(rows: dict[str, dict[str, Run]]) -> list[str]:
    """Where ours falls short of another row, and where any row does not beat the text-only baseline; by the means."""
    means = {
        row: {
            kind: mean(run.accuracies[kind] for run in runs.values()) for kind in next(iter(runs.values())).accuracies
        }
        for row, runs in rows.items()
    }
    lines = []
    for row, theirs in means.items():
        if row == OURS or OURS not in means:
            continue
        short = [
            f"{kind} {means[OURS][kind] - theirs[kind]:+.1f}" for kind in theirs if means[OURS][kind] < theirs[kind]
        ]
        overall = means[OURS]["overall"] - theirs["overall"]
        pace = mean(r.samples for r in rows[OURS].values()) / mean(r.samples for r in rows[row].values())
        asked = mean(r.seconds for r in rows[row].values()) / mean(r.seconds for r in rows[OURS].values())
        lines.append(
            f"`{OURS}` against `{row}`: overall {overall:+.1f} points; {pace:.2f} times as fast in training, "
            f"{asked:.2f} times in answering; behind it in: {', '.join(short) or 'nothing'}."
        )
    baseline = next(iter(next(iter(rows.values())).values())).baseline
    for row, ours in means.items():
        if short := [kind for kind, value in ours.items() if value <= baseline[kind]]:
            lines.append(f"`{row}` does not beat the text-only baseline in: {', '.join(short)}.")
    return lines


PAGE = """# Results

What a language model makes of a SparseFormer's tokens and of its dense teacher's patches, at small scale. \
The teacher, the encoder and the language model are made by the tiny recipes, as `scripts/pipeline.sh tiny` does: \
the SparseFormer has learned from the teacher on more images, the dense rows look through the teacher as it is. \
Data, recipes and steps are the same in every row ({steps} of stage 2), \
and all are asked {questions} questions about generated scenes of the test split. One command a row:

```console
$ scripts/pipeline.sh tiny
{commands}
$ python scripts/compare_table.py >docs/results.md
```

Accuracies in percent, by kind of question; mean over the seeds, lowest and highest in brackets. \
`projector` is the number of its parameters. Stage 2 trains all of the model, the encoder too. \
`s/question` is that of `mllm eval`, in batches; `samples/s` that of stage 2, over all processes. \
Drawing the images is part of both, and both depend on the machine and on what else it does.

{table}
By the means:

{findings}
"""


def page(rows: dict[str, dict[str, Run]]) -> str:
    """All of docs/results.md."""
    first = next(iter(next(iter(rows.values())).values()))
    return PAGE.format(
        steps=first.steps,
        questions=first.questions,
        commands="\n".join(f"$ scripts/compare_row.sh {row}" for row in rows),
        table=table(rows),
        findings="\n".join(f"- {line}" for line in findings(rows)),
    )


def main() -> int:
    """Writes the page to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=Path("runs/compare"), metavar="DIR")
    parser.add_argument("--seeds", nargs="+", default=["1", "2"], metavar="SEED", help="default: 1 2")
    args = parser.parse_args()
    rows = read_rows(args.results, args.seeds)
    if not rows:
        sys.stderr.write(f"error: {args.results}: no finished run there; scripts/compare_row.sh ROW makes one\n")
        return 2
    try:
        check_alike(rows)
    except ValueError as error:
        sys.stderr.write(f"error: {args.results}: {error}\n")
        return 2
    sys.stdout.write(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

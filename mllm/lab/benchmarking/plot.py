"""An image of the measurements: images a second over the batch size, a line for each contender."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import write_whole

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise InputError unless a plot can be written there."""
    if path.suffix not in FORMATS:
        raise InputError(f"--plot {path}: the name must end with one of {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as problem:
        raise InputError("--plot: matplotlib is missing; pip install 'sparseformer-mllm[plot]'") from problem


def plot(report: dict[str, Any], path: Path) -> None:
    """Write it, whole or not at all; quartiles are bars. ``report`` is `report.as_dict`'s."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["name"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["name"] == name]
        speeds = [row["images_per_second"] for row in rows]
        below = [speed["median"] - speed["low"] for speed in speeds]
        above = [speed["high"] - speed["median"] for speed in speeds]
        sizes = [row["batch_size"] for row in rows]
        style = "o-" if rows[0]["sparse"] else "s--"
        axes.errorbar(sizes, [speed["median"] for speed in speeds], [below, above], fmt=style, capsize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="images/s", title=f"mllm bench {report['bench']}")
    axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    write_whole(path, content.getvalue())

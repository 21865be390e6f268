"""Measurements as JSON, as Markdown and as tables on a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm.benchmarking.measure import Comparison, Row

GIB = 2**30


def as_dict(
    what: str, machine: dict[str, Any], settings: dict[str, Any], rows: list[Row], pairs: list[Comparison], skipped: Any
) -> dict[str, Any]:
    """Everything, as JSON takes it: rates a second, times in milliseconds, memory in bytes, every round's seconds."""
    return {
        "bench": what,
        "machine": machine,
        "settings": settings,
        "rows": [
            {
                "name": row.name,
                "sparse": row.sparse,
                "batch_size": row.batch,
                "gmacs": row.macs / 1e9,
                "tokens": row.tokens,
                "ms_per_image": asdict(row.ms_per_image),
                "images_per_second": asdict(row.images_per_second),
                "share_of_peak": row.share_of_peak,
                "peak_gmacs_per_second": row.peak / 1e9,
                "memory": row.memory,
                "seconds": row.seconds,
            }
            for row in rows
        ],
        "comparisons": [
            {
                "sparse": pair.sparse.name,
                "dense": pair.dense.name,
                "batch_size": pair.sparse.batch,
                "speed_ratio": asdict(pair.speed),
                "gmac_ratio": pair.macs,
                "efficiency": pair.efficiency,
            }
            for pair in pairs
        ],
        "skipped": skipped,
    }


@dataclass(frozen=True)
class Sheet:
    """A table as words."""

    headings: tuple[str, ...]
    lines: list[tuple[str, ...]]


def sheets(report: dict[str, Any]) -> list[Sheet]:
    """The two tables of a report that `as_dict` made: the contenders, and ours against the dense ones."""
    rows: list[tuple[str, ...]] = [
        (
            row["name"],
            str(row["batch_size"]),
            f"{row['gmacs']:.1f}" if row["gmacs"] >= 0.1 else f"{row['gmacs']:.2g}",
            "-" if row["tokens"] is None else str(row["tokens"]),
            _spread(row["ms_per_image"]),
            f"{row['images_per_second']['median']:.3g}",
            f"{row['share_of_peak']:.0%}",
            f"{row['memory'] / GIB:.2f}",
        )
        for row in report["rows"]
    ]
    pairs: list[tuple[str, ...]] = [
        (
            pair["sparse"],
            pair["dense"],
            str(pair["batch_size"]),
            _spread(pair["speed_ratio"]),
            f"{pair['gmac_ratio']:.2f}",
            f"{pair['efficiency']:.0%}",
        )
        for pair in report["comparisons"]
    ]
    contenders = ("contender", "batch", "GMACs", "tokens", "ms/image", "images/s", "of peak", "memory GiB")
    found = [Sheet(contenders, rows)]
    if pairs:
        found.append(Sheet(("sparse", "dense", "batch", "times faster", "times fewer GMACs", "efficiency"), pairs))
    return found


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a section of a document."""
    parts = [f"## mllm bench {report['bench']}\n\n{_about(report)}\n"]
    for sheet in sheets(report):
        numbers = len(sheet.headings) - _names(sheet)
        rule = ["---"] * _names(sheet) + ["---:"] * numbers
        lines = [[cell.replace("|", "\\|") for cell in line] for line in sheet.lines]
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in (sheet.headings, rule, *lines)))
    parts += [f"Skipped: {line}\n" for line in report["skipped"]]
    return "\n".join(parts)


def show(report: dict[str, Any]) -> None:
    """The report on a terminal."""
    console = Console()
    console.print(Text(_about(report)))
    for sheet in sheets(report):
        table = Table()
        for number, heading in enumerate(sheet.headings):
            name = number < _names(sheet)
            table.add_column(heading, justify="left" if name else "right", no_wrap=not name, overflow="fold")
        for line in sheet.lines:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)


def _names(sheet: Sheet) -> int:
    """The leading columns that hold names rather than numbers."""
    return sheet.headings.index("batch")


def _spread(spread: dict[str, float]) -> str:
    """Median (lower to upper quartile), to three digits."""
    low, median, high = (_digits(spread[name]) for name in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _about(report: dict[str, Any]) -> str:
    """Machine and settings in a paragraph."""
    machine, settings = report["machine"], report["settings"]
    clock = {"wall": "time on the wall", "cpu": "CPU time, all threads together"}[settings["clock"]]
    where = [f"{machine['cpu']}, {machine['cores']} cores, {machine['instructions']}, threads: {machine['threads']}"]
    where += [str(machine["gpu"])] if machine["gpu"] else []
    libraries = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "open_clip_torch"))
    prompt = f", {settings['prompt']} tokens of text" if settings.get("prompt") else ""
    return (
        f"{'; '.join(where)}; load {machine['load']}; {libraries}. {settings['device']}, {settings['dtype']}, "
        f"{'compiled' if settings['compile'] else 'eager'}{prompt}; {clock}; medians (quartiles) of "
        f"{settings['rounds']} interleaved rounds. Memory: weights and activations."
    )

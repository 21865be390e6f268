"""Measurements as JSON, as Markdown and as tables on a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm.lab.benchmarking.measure import Comparison, Row

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
                "cosine": row.cosine,
            }
            for row in rows
        ],
        "comparisons": [
            {
                "contender": pair.row.name,
                "against": pair.against.name,
                "batch_size": pair.row.batch,
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
    """A table as words; its first ``names`` columns hold names rather than numbers."""

    names: int
    headings: tuple[str, ...]
    lines: list[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """A report as it is read: what was run, machine and settings in a paragraph, tables, remarks under them."""

    title: str
    about: str
    sheets: list[Sheet]
    remarks: list[str]


def section(report: dict[str, Any]) -> Section:
    """Of a report that `as_dict` made."""
    title = f"mllm bench {report['bench']}{' --compile' if report['settings']['compile'] else ''}"
    return Section(title, _about(report), sheets(report), remarks(report))


def sheets(report: dict[str, Any]) -> list[Sheet]:
    """The two tables of a report that `as_dict` made: the contenders, and what is compared with what."""
    rows: list[tuple[str, ...]] = [
        (
            row["name"],
            str(row["batch_size"]),
            f"{row['gmacs']:.1f}" if row["gmacs"] >= 0.1 else f"{row['gmacs']:.2g}",
            "-" if row["tokens"] is None else str(row["tokens"]),
            spread(row["ms_per_image"]),
            f"{row['images_per_second']['median']:.3g}",
            f"{row['share_of_peak']:.0%}",
            f"{row['memory'] / GIB:.2f}",
        )
        for row in report["rows"]
    ]
    pairs: list[tuple[str, ...]] = [
        (
            pair["contender"],
            pair["against"],
            str(pair["batch_size"]),
            spread(pair["speed_ratio"]),
            f"{pair['gmac_ratio']:.2f}",
            "-" if pair["efficiency"] is None else f"{pair['efficiency']:.0%}",
        )
        for pair in report["comparisons"]
    ]
    contenders = ("contender", "batch", "GMACs", "tokens", "ms/image", "images/s", "of peak", "memory GiB")
    found = [Sheet(1, contenders, rows)]
    if pairs:
        against = ("contender", "against", "batch", "times faster", "times fewer GMACs", "efficiency")
        found.append(Sheet(2, against, pairs))
    return found


def remarks(report: dict[str, Any]) -> list[str]:
    """What belongs under the tables: agreement with a reference, and what was left out."""
    cosines = {row["name"]: row["cosine"] for row in report["rows"] if row["cosine"] is not None}
    agreeing = [f"{name}: cosine to float32's embeddings at least {cosine:.4f}" for name, cosine in cosines.items()]
    return agreeing + [f"Skipped: {line}" for line in report["skipped"]]


def as_markdown(section: Section) -> str:
    """A section of a document."""
    parts = [f"## {section.title}\n\n{section.about}\n"]
    for sheet in section.sheets:
        rule = ["---"] * sheet.names + ["---:"] * (len(sheet.headings) - sheet.names)
        lines = [[cell.replace("|", "\\|") for cell in line] for line in sheet.lines]
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in (sheet.headings, rule, *lines)))
    return "\n".join([*parts, *(f"{line}\n" for line in section.remarks)])


def show(section: Section) -> None:
    """A section on a terminal."""
    console = Console()
    console.print(Text(section.about))
    for sheet in section.sheets:
        table = Table()
        for number, heading in enumerate(sheet.headings):
            name = number < sheet.names
            table.add_column(heading, justify="left" if name else "right", no_wrap=not name, overflow="fold")
        for line in sheet.lines:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)
    for remark in section.remarks:
        console.print(Text(remark))


def spread(values: dict[str, float]) -> str:
    """Median (lower to upper quartile), to three digits."""
    low, median, high = (_digits(values[name]) for name in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine_line(machine: dict[str, Any]) -> str:
    """The machine and the versions of the libraries."""
    where = [f"{machine['cpu']}, {machine['cores']} cores, {machine['instructions']}, threads: {machine['threads']}"]
    where += [str(machine["gpu"])] if machine["gpu"] else []
    libraries = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "open_clip_torch"))
    return f"{'; '.join(where)}; load {machine['load']}; {libraries}."


def clock_words(clock: str) -> str:
    return {"wall": "time on the wall", "cpu": "CPU time, all threads together"}[clock]


def _about(report: dict[str, Any]) -> str:
    """Machine and settings in a paragraph."""
    settings = report["settings"]
    prompt = f", {settings['prompt']} tokens of text" if settings.get("prompt") else ""
    mode = "eager and compiled" if settings["compile"] else "eager"
    return (
        f"{machine_line(report['machine'])} {settings['device']}, {settings['dtype']}, {mode}{prompt}; "
        f"{clock_words(settings['clock'])}; medians (quartiles) of {settings['rounds']} interleaved rounds. "
        f"Memory: weights and activations{', not what the compiler adds' if settings['compile'] else ''}."
    )

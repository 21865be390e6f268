"""Reports: measurements as JSON, as Markdown, as a plot, and all of them as one page.

`python -m mllm.lab.benchmarking.report OUT.md REPORT.json ...` writes the page for `scripts/performance.sh`. Beside it
stand OUT.json with everything that it was made from, each repeat's seconds included, and OUT.svg with the curves of
what resolution and tokens cost, if these are among the reports.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_output, read_json, write_json, write_whole

GIB = 2**30
PLOT_FORMATS = (".png", ".svg", ".pdf")
# What is drawn over what, by kind of report; others draw speeds over batch sizes.
CURVES = {
    "resolution": ("image_size", "side of the image, pixels", "ms_per_image", "ms per image"),
    "tokens": ("tokens", "tokens of an image", "ms_per_image", "ms per image"),
}
SPEEDS = ("batch_size", "batch size", "images_per_second", "images/s")
GRAY = "#808080"  # is seen on white and on black
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GRAY),
    "grid.color": GRAY,
    "savefig.transparent": True,
    "legend.framealpha": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mllm",  # the same picture is the same file
}
CLOCKS = {"wall": "time on the wall", "cpu": "CPU time, all threads together"}
OPENING = """# Performance

Made by `scripts/performance.sh`, and not by hand: random weights at true sizes, each table's cases in one process, in
turn. GMACs are counted (`mllm info` says how), "of matmul" is what a case makes of the machine's large matmul in the
same type, efficiency the fraction of saved arithmetic that becomes saved time. Every repeat's figures stand in
[{name}]({name}).
"""


@dataclass(frozen=True)
class Table:
    """A table as words; its first ``names`` columns hold names rather than numbers."""

    names: int
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A report as it is read: what was run, machine and settings in a paragraph, tables, remarks under them."""

    title: str
    about: str
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def section(report: Any, source: str = "report") -> Section:
    """Makes a report of any kind readable.

    Raises:
        InputError: ``source`` holds none.
    """
    kinds = dict.fromkeys(("encoder", "tokens", "resolution", "runtimes", "first-token", "train"), _cases)
    kinds |= {"answers": _answers, "profile": _profile, "start-up": _start_up}
    kind = report.get("bench") if isinstance(report, dict) else None
    if kind not in kinds:
        raise InputError(f"{source}: holds no report; name what `mllm bench --json` wrote")
    return kinds[kind](report)


def _cases(report: dict[str, Any]) -> Section:
    settings = report["settings"]
    compiled = settings["compile"]
    prompt = f", {settings['prompt']} tokens of text" if report["bench"] == "first-token" else ""
    rates = {row["dtype"]: f"{row['matmul'] / 1e9:.0f} GMACs/s in {row['dtype']}" for row in report["rows"]}
    about = (
        f"{machine_line(report['machine'])} {settings['device']}{', eager and compiled' if compiled else ''}{prompt}; "
        f"{_repeats(report)} Memory: weights and activations{', not what the compiler adds' if compiled else ''}. "
        f"A large matmul: {', '.join(rates.values())}."
    )
    title = f"mllm bench {report['bench']}{' --compile' if compiled else ''}"
    if report["bench"] == "tokens":
        title = "mllm bench encoder --tokens"
    if report["bench"] == "resolution":
        sizes = ", ".join(f"{height} x {width}" for height, width in report["mixed_sizes"])
        about += f" Mixed sizes: {sizes} pixels, in turn; padded at the right and at the bottom to the largest."
    rows = [
        (
            row["name"],
            row["dtype"],
            str(row["batch_size"]),
            f"{row['macs'] / 1e9:.1f}" if row["macs"] >= 1e8 else f"{row['macs'] / 1e9:.2g}",
            "-" if row["tokens"] is None else str(row["tokens"]),
            _spread(row["ms_per_image"]),
            f"{row['images_per_second']['median']:.3g}",
            f"{row['fraction_of_matmul']:.0%}",
            f"{row['memory'] / GIB:.2f}",
        )
        for row in report["rows"]
    ]
    pairs = [
        (
            pair["case"],
            pair["against"],
            pair["dtype"],
            str(pair["batch_size"]),
            _spread(pair["speed_ratio"]),
            f"{pair['mac_ratio']:.2f}",
            "-" if pair["efficiency"] is None else f"{pair['efficiency']:.0%}",
        )
        for pair in report["comparisons"]
    ]
    figures = ("batch", "GMACs", "tokens", "ms/image", "images/s", "of matmul", "memory GiB")
    tables = [Table(2, ("case", "dtype", *figures), rows)]
    if pairs:
        ratios = ("batch", "times faster", "times fewer GMACs", "efficiency")
        tables.append(Table(3, ("case", "against", "dtype", *ratios), pairs))
    cosines = {row["name"]: row["cosine"] for row in report["rows"] if row["cosine"] is not None}
    remarks = [f"{name}: cosine to float32's embeddings at least {cosine:.4f}" for name, cosine in cosines.items()]
    return Section(title, about, tables, [*remarks, *_skipped(report)])


def _profile(report: dict[str, Any]) -> Section:
    """Lists parts and operations; "cost" is the fraction of time over that of arithmetic."""
    about = (
        f"{machine_line(report['machine'])} {report['model']}, batch {report['batch_size']}, {report['dtype']}, "
        f"{report['settings']['repeats']} repeats under torch.profiler: fractions of the CPU's time and of the "
        "multiply-accumulates."
    )
    parts = [
        (
            each["part"],
            f"{each['time']:.1%}",
            f"{each['arithmetic']:.1%}",
            f"{each['time'] / each['arithmetic']:.2f}" if each["arithmetic"] else "-",
        )
        for each in report["parts"]
    ]
    operations = [(each["part"], each["operation"], f"{each['time']:.1%}") for each in report["operations"]]
    tables = [
        Table(1, ("part", "time", "arithmetic", "cost"), parts),
        Table(2, ("part", "operation", "time"), operations),
    ]
    return Section("mllm bench encoder --profile", about, tables)


def _answers(report: dict[str, Any]) -> Section:
    about = (
        "{} {}, {device}, {dtype[0]}, {questions} questions about generated images, answers of up to "
        "{max_new_tokens} tokens; {}"
    ).format(machine_line(report["machine"]), report["model"], _repeats(report), **report["settings"])
    rows = [
        (str(row["batch_size"]), _spread(row["ms_per_question"]), _spread(row["speed_ratio"])) for row in report["rows"]
    ]
    return Section("mllm bench answers", about, [Table(0, ("batch", "ms/question", "times faster"), rows)])


def _start_up(report: dict[str, Any]) -> Section:
    about = (
        f"{machine_line(report['machine'])} Whole processes, {_repeats(report)} Imports: one run of "
        "`python -X importtime -m mllm`, a package's own time without that of what it imports."
    )
    rows = [(row["name"], _spread(row["ms"])) for row in report["rows"]]
    imports = [
        (row["name"], package, f"{1e3 * seconds:.0f}")
        for row in report["rows"]
        for package, seconds in row["imports"].items()
    ]
    tables = [Table(1, ("command", "ms"), rows), Table(2, ("command", "package", "ms"), imports)]
    return Section("mllm bench start-up", about, tables, [])


def _repeats(report: dict[str, Any]) -> str:
    settings = report["settings"]
    return f"{CLOCKS[settings['clock']]}; medians (quartiles) of {settings['repeats']} interleaved repeats."


def _skipped(report: dict[str, Any]) -> list[str]:
    return [f"Skipped: {line}" for line in report["skipped"]]


def _spread(values: dict[str, float]) -> str:
    """Median (lower to upper quartile), to three digits."""
    low, median, high = (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in (values[k] for k in ("low", "median", "high"))
    )
    return f"{median} ({low}-{high})"


def machine_line(machine: dict[str, Any]) -> str:
    """Names the machine and the versions of the libraries."""
    where = [f"{machine['cpu']}, {machine['cores']} cores, {machine['instructions']}, threads: {machine['threads']}"]
    where += [str(machine["gpu"])] if machine["gpu"] else []
    libraries = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "open_clip_torch"))
    return f"{'; '.join(where)}; load {machine['load']}; {libraries}."


def as_markdown(section: Section) -> str:
    """Writes a section of a document, its columns aligned for a terminal too."""
    parts = [f"## {section.title}\n\n{section.about}\n"]
    for table in section.tables:
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (table.headings, *table.lines)]
        columns = []
        for number, cells in enumerate(zip(*lines, strict=True)):
            width, names = max(4, *map(len, cells)), number < table.names
            aligned = [cell.ljust(width) if names else cell.rjust(width) for cell in cells]
            columns.append([aligned[0], "-" * (width - 1) + ("-" if names else ":"), *aligned[1:]])
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True)))
    return "\n".join([*parts, *(f"{line}\n" for line in section.remarks)])


def check_plot(path: Path, what: str = "--plot") -> None:
    """Raises InputError unless a plot can be written there."""
    if path.suffix not in PLOT_FORMATS:
        raise InputError(f"{what} {path}: the name must end with one of {', '.join(PLOT_FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as problem:
        raise InputError(f"{what}: matplotlib is missing; pip install 'sparseformer-mllm[plot]'") from problem


def plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws a panel for each report, in it a line for each encoder with quartiles as bars, as CURVES says or SPEEDS."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6 * len(reports), 4), layout="constrained")
        for axes, report in zip(figure.subplots(1, len(reports), squeeze=False)[0], reports, strict=True):
            _draw(axes, report)
        _save(figure, path)


def plot_lines(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], beside: str, path: Path) -> None:
    """Draws lines of points x and y by their names, in panels by what their x is."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
        for axes, (below, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for name, points in lines.items():
                axes.plot(*zip(*points, strict=True), "o-", label=name)
            axes.set(xscale="log", xlabel=below, ylabel=beside)
            ticks = sorted({x for points in lines.values() for x, _ in points})
            axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(axis="y", alpha=0.3)
            axes.legend(fontsize="small")
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    write_whole(path, content.getvalue())


def _draw(axes: Any, report: dict[str, Any]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    over, below, drawn, beside = CURVES.get(report["bench"], SPEEDS)
    rows = [row for row in report["rows"] if row[over] is not None]
    for line, dtype in dict.fromkeys((row["line"], row["dtype"]) for row in rows):
        points = [row for row in rows if (row["line"], row["dtype"]) == (line, dtype)]
        points.sort(key=lambda row: row[over])
        spreads = [row[drawn] for row in points]
        medians = [spread["median"] for spread in spreads]
        bars = [[abs(spread[end] - spread["median"]) for spread in spreads] for end in ("low", "high")]
        style = "o-" if points[0]["ours"] else "s--"
        label = f"{line}, {dtype}"
        if over == "image_size":
            label += f": {' to '.join(map(str, dict.fromkeys((points[0]['tokens'], points[-1]['tokens']))))} tokens"
        axes.errorbar([row[over] for row in points], medians, bars, fmt=style, capsize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel=below, ylabel=beside, title=section(report).title)
    ticks = sorted({row[over] for row in rows})
    axes.set_xticks(ticks, labels=map(str, ticks))
    axes.set_xticks([], minor=True)
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")


def main(arguments: list[str] | None = None) -> int:
    """Writes a page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mllm.lab.benchmarking.report", description=__doc__)
    parser.add_argument("out", type=Path, help="the page, a .md file")
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    args = parser.parse_args(arguments)
    figures, picture = args.out.with_suffix(".json"), args.out.with_suffix(".svg")
    try:
        check_output("OUT.md", args.out)
        check_output("OUT.json", figures)
        if args.out.suffix != ".md":
            raise InputError(f"OUT.md {args.out}: the name must end with .md")
        contents = [read_json(path) for path in args.reports]
        sections = [section(content, str(path)) for content, path in zip(contents, args.reports, strict=True)]
        drawn = [content for content in contents if content["bench"] in CURVES]
        if drawn:
            check_output("OUT.svg", picture)
            check_plot(picture, "OUT.svg")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    write_json(figures, contents)
    parts = [OPENING.format(name=figures.name)]
    if drawn:
        plot(drawn, picture)
        parts.append(f"![What the size of an image and the number of its tokens cost]({picture.name})\n")
    parts += map(as_markdown, sections)
    write_whole(args.out, "\n".join(parts).encode(errors="backslashreplace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

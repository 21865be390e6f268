"""A score as JSON and as a table on the terminal."""

from __future__ import annotations

from typing import Any

from data.benchmarks.base import Benchmark, Result

_DIGITS = 4  # of what is written: a hundredth of what anybody reports


def as_json(benchmark: Benchmark, result: Result) -> dict[str, Any]:
    """``{"benchmark", "overall", "metric", "count", "unanswered", "groups", "items": [{"question_id", "score"}]}``."""
    groups = {
        name: {measure: round(value, _DIGITS) for measure, value in group.items()}
        for name, group in result.groups.items()
    }
    return {
        "benchmark": benchmark.name,
        "overall": round(result.overall, _DIGITS),
        "metric": benchmark.metric,
        "count": len(result.items),
        "unanswered": result.unanswered,
        "groups": groups,
        "items": [{"question_id": name, "score": round(score, _DIGITS)} for name, score in result.items],
    }


def print_result(benchmark: Benchmark, result: Result) -> None:
    """A line for each group and the overall score, to stdout."""
    from rich.console import Console
    from rich.table import Table

    measures = list(dict.fromkeys(measure for group in result.groups.values() for measure in group))
    console = Console()
    if measures:
        table = Table("", title=f"{benchmark.title}, {len(result.items)} questions")
        for measure in measures:
            table.add_column(measure, justify="right")
        for name, group in result.groups.items():
            table.add_row(name, *(_shown(measure, group.get(measure)) for measure in measures))
        console.print(table)
    console.print(f"{benchmark.title}: {result.overall:.2f} ({benchmark.metric})", highlight=False)


def _shown(measure: str, value: float | None) -> str:
    if value is None:
        return ""
    if measure == "n":
        return f"{value:.0f}"
    return f"{value:.1f}" if measure == "points" else f"{value:.1f}%"

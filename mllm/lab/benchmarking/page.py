"""Reports as one page: `python -m mllm.lab.benchmarking.page OUT.md REPORT.json ...`; for `scripts/performance.sh`.

Beside the page stands OUT.json with everything that it was made from, each round's seconds included.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_output, read_json, write_json, write_whole
from mllm.lab.benchmarking import profiling, report, startup
from mllm.lab.benchmarking.report import Section, as_markdown

SECTIONS = {
    "encoder": report.section,
    "first-token": report.section,
    "train": report.section,
    "profile": profiling.section,
    "start-up": startup.section,
}
OPENING = """# Performance

Made by `scripts/performance.sh`, and not by hand: random weights at true sizes, each table's contenders in one process,
in turn. GMACs are counted (`mllm info` says how), "of peak" is the share of the machine's own matrix product, and
efficiency the share of saved arithmetic that becomes saved time. The figures, every round's: [{name}]({name}).
"""


def section_of(content: Any, source: Path) -> Section:
    """A report of whichever kind.

    Raises:
        InputError: ``source`` holds none.
    """
    kind = content.get("bench") if isinstance(content, dict) else None
    if kind not in SECTIONS:
        raise InputError(f"{source}: holds no report; name what `mllm bench --json` wrote")
    return SECTIONS[kind](content)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mllm.lab.benchmarking.page", description=__doc__)
    parser.add_argument("out", type=Path, help="the page, a .md file")
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    args = parser.parse_args(arguments)
    try:
        check_output("OUT.md", args.out)
        figures = args.out.with_suffix(".json")
        check_output("OUT.json", figures)
        if args.out.suffix != ".md":
            raise InputError(f"OUT.md {args.out}: the name must end with .md")
        contents = [read_json(path) for path in args.reports]
        sections = [section_of(content, path) for content, path in zip(contents, args.reports, strict=True)]
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    parts = [OPENING.format(name=figures.name), *(as_markdown(section) for section in sections)]
    write_json(figures, contents)
    write_whole(args.out, "\n".join(parts).encode(errors="backslashreplace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

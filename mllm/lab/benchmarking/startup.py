"""How long the command takes to start, each time in a process of its own, and which packages' imports take it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.errors import InputError
from mllm.lab.benchmarking.measure import Spread, interleave

HELP_COMMAND, CHAT_COMMAND = "mllm --help", "mllm chat, until it asks"
PACKAGES = 8  # that are listed for each command


def commands(model: Path) -> dict[str, list[str]]:
    """Lists arguments of `mllm` by name; a session whose input is at its end is over as soon as it asks."""
    return {HELP_COMMAND: ["--help"], CHAT_COMMAND: ["chat", "--model", str(model), "--device", "cpu"]}


def run_once(arguments: Sequence[str], *options: str) -> str:
    """Starts the command and waits for its end; ``options`` are Python's. Returns what it wrote to stderr.

    Raises:
        InputError: it failed.
    """
    done = subprocess.run(
        [sys.executable, *options, "-m", "mllm", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word about it"])[-1]
        raise InputError(f"mllm {' '.join(arguments)}: failed: {last}")
    return done.stderr


def child_seconds(run: Callable[[], Any], clock: str) -> float:
    """Times a run that waits for a process: on the wall, or the CPU time of that process."""
    if clock == "wall":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before = os.times()
    run()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def import_times(log: str) -> dict[str, float]:
    """Reads what `python -X importtime` wrote: seconds by package, of its own modules only, the slowest one first."""
    microseconds: Counter[str] = Counter()
    for line in log.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            microseconds[rest.rpartition("|")[2].strip().partition(".")[0]] += int(own)
    return {package: number / 1e6 for package, number in microseconds.most_common()}


def measure(given: Mapping[str, list[str]], repeats: int, warm_up: int, clock: str) -> list[dict[str, Any]]:
    """Tells each command's seconds, and the packages whose imports take longest.

    Raises:
        InputError: a command fails.
    """
    runs = {name: lambda arguments=arguments: run_once(arguments) for name, arguments in given.items()}
    seconds = interleave(runs, repeats, warm_up, lambda run: child_seconds(run, clock))
    return [
        {
            "name": name,
            "ms": asdict(Spread.of([1e3 * each for each in seconds[name]])),
            "seconds": seconds[name],
            "imports": dict(list(import_times(run_once(arguments, "-X", "importtime")).items())[:PACKAGES]),
        }
        for name, arguments in given.items()
    ]

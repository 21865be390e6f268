"""Malformed input to every command, by a seeded generator: ``python -m tests.fuzz --cases 500 --seed 1``.

Each case damages one file of a folder of good ones and runs the real command line on it in a process of its own. Right
is an answer (exit code 0, or 1 of `check-data`), or one line ``error: ...`` and exit code 2; wrong is a traceback, more
than 60 seconds, more than 6 GB, or something half-written. What was wrong is printed with the case's seed, which
``--seed SEED --cases 1`` repeats; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mllm import cli
from tests.fuzz_damage import NONE, damage_file
from tests.fuzz_world import TARGETS, make_world

SECONDS = 60
GIGABYTES = 6
LONGEST_LINE = len("error: ") + cli.LONGEST_LINE
# What a command that stopped may leave: its record of bad samples, its lock, its answers so far, finished stages.
MAY_STAY = ("bad_samples.jsonl", ".lock", "settings.json", "progress-0.jsonl")

GOES_ON = ("stopped", "begun")  # folders of runs that the command goes on with


@dataclass
class Outcome:
    """A case, and what is wrong about how the command ended; nothing is, if it is empty."""

    seed: int
    command: str
    damage: str
    code: int
    seconds: float
    gigabytes: float
    error: str
    wrong: str


def run_case(seed: int, world: Path) -> Outcome:
    """Damages a copy of the good files and runs a command on it."""
    random_ = random.Random(seed)
    target = random_.choice(TARGETS)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place) / "case"
        shutil.copytree(world, folder)
        read = sorted(file for name in target.reads for file in _files(folder / name))
        file = random_.choice(read)
        damage = f"{file.relative_to(folder)}: {damage_file(file, random_)}"
        before = _contents(folder)
        code, seconds, gigabytes = _run(target.command, folder)
        out, err = ((Path(place) / name).read_text(errors="replace") for name in ("out", "err"))
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        wrong = "; ".join(_faults(target.command, folder, before, code, seconds, gigabytes, out + err, lines))
        if code != 0 and damage.endswith(NONE):
            wrong += f"exit code {code} of good files"
        said = lines[-1] if lines else err[-2000:]
        return Outcome(seed, target.command, damage, code, round(seconds, 1), round(gigabytes, 2), said, wrong)


def _run(command: str, folder: Path) -> tuple[int, float, float]:
    """Exit code (128 + signal if it was killed), seconds, and the most memory of the process and its children."""
    start, most = time.monotonic(), 0.0
    child = os.fork()  # torch and transformers are imported already: a case takes a second, not ten
    if child == 0:
        _be_the_command(command, folder)
    process = psutil.Process(child)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - start
        if ended:
            return os.waitstatus_to_exitcode(status) % 256, seconds, most
        most = max(most, _memory(process))
        if seconds > SECONDS or most > GIGABYTES:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)


def _memory(process: psutil.Process) -> float:
    """In GB, of the process and its children, less what a fork shares."""
    used = 0
    for each in (process, *_children(process)):
        try:
            info = each.memory_info()
            used += info.rss - info.shared
        except psutil.Error:
            continue
    return used / 1e9


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _be_the_command(command: str, folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    for descriptor, name in ((1, "../out"), (2, "../err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        from mllm.cli import main

        code = main(shlex.split(command))
    except SystemExit as left:  # argparse
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _faults(
    command: str,
    folder: Path,
    before: dict[Path, bytes],
    code: int,
    seconds: float,
    gigabytes: float,
    printed: str,
    lines: list[str],
) -> Iterator[str]:
    if "Traceback (most recent call last)" in printed:
        yield "traceback"
    if gigabytes > GIGABYTES:
        yield f"{gigabytes:.1f} GB"
    elif seconds > SECONDS:
        yield "hang"
    elif code not in ((0, 1, 2) if command.startswith("check-data") else (0, 2)):
        yield f"exit code {code}"
    if code == 2 and len(lines) != 1:
        yield f"{len(lines)} lines of error"
    if any(len(line) > LONGEST_LINE for line in lines):
        yield f"a line of {max(map(len, lines))} characters"
    after = _contents(folder)
    changed = [
        str(path)
        for path, content in before.items()
        if after.get(path) != content
        and not (path.parts[0] in GOES_ON and (code == 0 or path.name in (*MAY_STAY, "metrics.json")))
    ]
    if changed:
        yield f"changed or removed {', '.join(changed)}"
    if code == 2 and not (lines and lines[0].startswith("error: step ")):  # a training that has begun goes on later
        new = [path for path in after.keys() - before.keys() if path.name not in MAY_STAY]
        if new:
            yield f"left {', '.join(sorted(map(str, new))[:5])}"
    elif partial := [
        path for path in after if path.name.endswith((".partial", ".part", ".tmp")) or ".partial" in path.parts
    ]:
        yield f"half-written: {', '.join(map(str, partial))}"


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]


def _contents(folder: Path) -> dict[Path, bytes]:
    """Every regular file below a folder; of what is none, that it is there."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            found[path.relative_to(folder)] = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return found


def warm_up() -> None:
    """Imports what the commands import, so that the cases need not."""
    import importlib

    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    from mllm.cli import COMMANDS

    for name in COMMANDS:
        importlib.import_module(f"mllm.commands.{name.replace('-', '_')}")
    for name in ("datasets", "deepspeed", "peft", "webdataset", "encoder.bootstrapping.run", "mllm.finetuning.run"):
        importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; the others follow")
    parser.add_argument("--json", metavar="FILE", help="write every case to this file, one a line")
    args = parser.parse_args()
    warm_up()
    codes: Counter[int] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-world-") as place:
        world = Path(place)
        make_world(world)
        file = open(args.json, "w", encoding="utf-8") if args.json else None  # noqa: SIM115
        for seed in range(args.seed, args.seed + args.cases):
            outcome = run_case(seed, world)
            codes[outcome.code] += 1
            if outcome.wrong:
                failed += 1
                report = (f"seed {seed}: {outcome.wrong}", f"mllm {outcome.command}", outcome.damage, outcome.error)
                sys.stdout.write("\n  ".join(report) + "\n")
            if file:
                file.write(json.dumps(asdict(outcome)) + "\n")
                file.flush()
        if file:
            file.close()
    sys.stdout.write(f"{args.cases} cases, exit codes {dict(sorted(codes.items()))}: {failed} wrong\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

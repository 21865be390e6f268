"""What `scripts/soak_training.sh` runs: SIGKILL to trainings at random moments, then `--resume`, then a comparison."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import recipes, tiny

ROOT = Path(__file__).parents[1]
LIMIT = 900.0  # seconds of one run
Place = tuple[int, float]  # entries of the log in metrics.json, and seconds after the last of them


@dataclass
class Kind:
    """A command that is killed.

    Args:
        command: for the place of its output.
        resume: what is added to go on.
        save_only: kill it only once all steps are taken.
    """

    command: Callable[[Path], list[str]]
    resume: tuple[str, ...] = ("--resume",)
    save_only: bool = False


def mllm(*words: str) -> list[str]:
    return [sys.executable, "-m", "mllm", *words]


def write_kinds(folder: Path) -> dict[str, Kind]:
    """Make tiny models, images, conversations and recipes with random crops and flips, dropout and an average."""
    open_clip = tiny.open_clip_model(folder / "open_clip")
    model = tiny.model(
        folder / "model", tiny.sparseformer(folder / "encoder"), tiny.language_model(folder / "language_model")
    )
    first, second = recipes.BOOTSTRAP["stages"]
    recipes.bootstrap(
        folder,
        open_clip,
        "bootstrap",
        held_out_images=1,
        zero_shot=[],
        crop_scale=0.3,
        flip=True,
        ema=0.9,
        stages=[first | {"steps": 5}, second | {"steps": 9, "elastic": [2, 5]}],
        trainer=recipes.BOOTSTRAP["trainer"]
        | {"save_steps": 2, "lr_scheduler_type": "linear", "dataloader_num_workers": 1},
    )
    finetune = {
        "stage": "lora",
        "output": "out",
        "model": str(model),
        "data": [recipes.conversations(folder, "tpp" * 8 + "tp")],
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "trainer": recipes.TRAINER | {"max_steps": 17, "warmup_steps": 3, "dataloader_num_workers": 1},
    }
    recipes.write(folder, finetune, "run")
    adapter = folder / "adapter"

    def launched(config: str) -> Callable[[Path], list[str]]:
        deepspeed = f"trainer.deepspeed={ROOT / 'scripts/deepspeed' / config}"
        words = ("bash", str(ROOT / "scripts/launch.sh"), "finetune", str(folder / "run.yaml"), deepspeed)
        return lambda out: [*words, "trainer.per_device_train_batch_size=1", f"output={out}"]

    def tuning(out: Path) -> list[str]:
        return mllm("finetune", str(folder / "run.yaml"), f"output={out}")

    subprocess.run(tuning(adapter), check=True, capture_output=True)
    return {
        "bootstrap": Kind(lambda out: mllm("bootstrap", str(folder / "bootstrap.yaml"), f"output={out}")),
        "finetune": Kind(tuning),
        "zero2": Kind(launched("zero2.json")),
        "zero3": Kind(launched("zero3.json")),
        "merge": Kind(lambda out: mllm("merge", str(adapter), "--out", str(out)), resume=()),
        "save": Kind(tuning, save_only=True),
    }


def entries(out: Path) -> int:
    """How many steps a training has logged."""
    metrics = out / "metrics.json"
    return len(json.loads(metrics.read_text())["log"]) if metrics.is_file() else 0


def run(command: list[str], out: Path, log: Path, kill_at: Place | None = None) -> tuple[int, list[float]]:
    """Run a command, or up to a place; its exit code, and the seconds from each entry of its log to the next."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "PROCESSES": "2"}
        )
    last = time.monotonic()
    gaps: list[float] = []
    give_up = last + LIMIT
    while process.poll() is None:
        while entries(out) > len(gaps):
            now = time.monotonic()
            gaps.append(now - last)
            last = now
        if kill_at is not None and len(gaps) >= kill_at[0]:
            give_up, kill_at = last + kill_at[1], None
        if time.monotonic() > give_up:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.002)
    return process.returncode, [*gaps, time.monotonic() - last]


def choose_place(gaps: list[float], save_only: bool, draw: random.Random) -> Place:
    """A moment of an uninterrupted run, by the entry of the log that comes before it.

    Each step is as likely as the save, however long it takes, and as the start, of which the last part counts: while
    Python imports, nothing is written.
    """
    steps = len(gaps) - 1 if save_only else draw.randrange(len(gaps))
    begin = 0.8 * gaps[0] if steps == 0 and len(gaps) > 1 else 0.0
    return steps, draw.uniform(begin, gaps[steps])


def same_weights(one: Path, other: Path) -> bool:
    """Whether two outputs have the same files of weights, bit by bit."""
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    if files[0] != files[1] or not files[0]:
        return False
    for file in files[0]:
        expected, found = load_file(one / file), load_file(other / file)
        if expected.keys() != found.keys() or not all(torch.equal(found[name], expected[name]) for name in expected):
            return False
    return True


def soak(name: str, kind: Kind, kills: int, folder: Path, draw: random.Random) -> dict[str, int | str]:
    """Kill a command of this kind so often; how it ended each time."""
    whole, out, log = folder / f"{name}-whole", folder / f"{name}-out", folder / f"{name}.log"
    code, gaps = run(kind.command(whole), whole, log)
    if code:
        raise SystemExit(f"{name}: the uninterrupted run failed:\n{log.read_text()[-3000:]}")
    ends = {"equal": 0, "different": 0, "failed": 0}
    for number in range(kills):
        shutil.rmtree(out, ignore_errors=True)
        place = choose_place(gaps, kind.save_only, draw)
        run(kind.command(out), out, log, place)
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*")) if out.exists() else []
        # what has no --resume is made again, unless it is whole
        done = not kind.resume and (out / "config.json").is_file() and not (out / ".partial").exists()
        code = 0 if done else run([*kind.command(out), *kind.resume], out, log)[0]
        end = "failed" if code else "equal" if same_weights(whole, out) else "different"
        ends[end] += 1
        where = f"{place[0]} logged steps and {place[1]:.2f} s"
        sys.stderr.write(f"{name} {number + 1}/{kills}: killed after {where}: {end}\n")
        if end != "equal":
            sys.stderr.write(f"  left: {left}\n{log.read_text()[-3000:]}\n")
    return {"kind": name, "kills": kills, **ends}


def main() -> int:
    """Soak the kinds in turn; returns 1 if any run did not end as an uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="in all, divided among the kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", default="bootstrap,finetune,zero2,zero3,merge,save", help="separated by commas")
    parser.add_argument("--out", type=Path, help="a file to write the table to as JSON")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    names = args.kinds.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = write_kinds(Path(folder))
        if unknown := set(names) - set(kinds):
            parser.error(f"--kinds: {', '.join(sorted(unknown))}: there are {', '.join(kinds)}")
        for index, name in enumerate(names):
            share = args.kills // len(names) + (index < args.kills % len(names))
            rows.append(soak(name, kinds[name], share, Path(folder), draw))
    columns = ("kind", "kills", "equal", "different", "failed")
    for row in ({name: name for name in columns}, *rows):
        sys.stdout.write("".join(f"{row[name]:<11}" for name in columns).rstrip() + "\n")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(row["equal"] != row["kills"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

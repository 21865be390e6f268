"""The parts of `scripts/gpu_check.sh`, which says what they are for; each within its time, as data and on a page."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from data.files import read_json, write_json, write_whole
from encoder.training.metrics import describe_machine
from mllm.lab.benchmarking.report import Section, Table, as_markdown, machine_line, section

ROOT = Path(__file__).parents[1]
GIB = 2**30
LARGE, BASE = "sparseformer_btsp_openai_clip_large", "sparseformer_btsp_openai_clip_base"


@dataclass(frozen=True)
class Setting:
    """Sizes of a run: true ones on a GPU, or those of a dry run."""

    device: str
    dtype: str
    batches: tuple[int, ...]
    compiled_batches: tuple[int, ...]
    train_batch: int
    language_model: str
    repeats: int
    encoders: tuple[str, ...]
    dense: str
    steps: int
    image_size: int
    lm: dict[str, int]


ON_A_GPU = Setting(
    device="cuda",
    dtype="bfloat16",
    batches=(1, 8, 64, 256),
    compiled_batches=(1, 64),
    train_batch=64,
    language_model="7B",
    repeats=10,
    encoders=(LARGE, "ViT-L-14", "ViT-L-14-336", BASE, "ViT-B-16"),
    dense="ViT-L-14",
    steps=8,
    image_size=224,
    lm={"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
)


def dry_run(out: Path) -> Setting:
    """On whatever there is, with models of a few thousand weights, which it makes."""
    from tests import tiny

    if not (out / "lm").is_dir():
        tiny.language_model(out / "lm")
        tiny.sparseformer(out / "sparse", projection_dim=16)
        tiny.open_clip_model(out / "dense")
        tiny.clip(out / "clip")
    return Setting(
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype="bfloat16",
        batches=(1, 2),
        compiled_batches=(1,),
        train_batch=2,
        language_model=str(out / "lm"),
        repeats=1,
        encoders=(str(out / "sparse"), str(out / "dense")),
        dense=str(out / "dense"),
        steps=2,
        image_size=32,
        lm={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    )


@dataclass(frozen=True)
class Part:
    """What is run, for how many seconds at most, and how its report comes of it; ``seconds`` 0: all that is left."""

    name: str
    seconds: int
    command: list[str]
    report: Callable[[Path], dict[str, Any]] = field(default=lambda _: {})
    environment: dict[str, str] = field(default_factory=dict)


def parts(setting: Setting, out: Path, dry: bool) -> list[Part]:
    """All of them, in order."""
    python, place = sys.executable, ["--device", setting.device, "--dtype", setting.dtype]

    def bench(name: str, seconds: int, *more: str) -> Part:
        timed = ["--repeats", str(setting.repeats), "--warm-up", "1" if dry else "3"]
        command = [python, "-m", "mllm", "bench", *more, *place, *timed, "--json", str(out / f"{name}.bench.json")]
        return Part(name, seconds, command, lambda _: read_json(out / f"{name}.bench.json"))

    def models(*names: str) -> list[str]:
        return [word for name in names for word in ("--model", name)]

    def batch(*sizes: int) -> list[str]:
        return ["--batch-size", *map(str, sizes)]

    two = setting.encoders[:2]
    gpu = setting.device == "cuda"
    tested = ["-m", "gpu", "tests"] if gpu else ["tests/test_kernels.py", "-k", "chosen"]
    training = [] if dry else shlex.split(os.environ.get("TRAINING", "scripts/pipeline.sh tiny --resume"))
    first = ["--language-model", setting.language_model]
    answering = [str(out / "sparse"), str(out / "clip")] if dry else [LARGE, "ViT-L-14", "ViT-L-14-336"]
    return [
        Part(
            "kernels",
            150,
            [python, "-m", "tests.kernel_cases", *(["--device", "cuda"] if gpu else [])],
            kernels_report,
            {} if gpu else {"TRITON_INTERPRET": "1"},
        ),
        Part("tests", 150, [python, "-m", "pytest", "-q", f"--junitxml={out}/tests.xml", *tested], tests_report(out)),
        bench("encoder", 120, "encoder", *models(*setting.encoders), *batch(*setting.batches)),
        bench("compiled", 150, "encoder", "--compile", *models(*two), *batch(*setting.compiled_batches)),
        bench("first-token", 90, "first-token", *first, *models(*answering), *batch(1)),
        bench("train", 90, "train", *models(*two), *batch(setting.train_batch)),
        Part("zero", 240, [python, __file__, "--zero", str(out), *(["--dry-run"] if dry else [])], zero_report(out)),
        *([Part("training", 0, training)] if training else []),
    ]


def kernels_report(log: Path) -> dict[str, Any]:
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return {"bench": "kernels", "rows": [json.loads(line) for line in lines]}


def tests_report(out: Path) -> Callable[[Path], dict[str, Any]]:
    def report(_: Path) -> dict[str, Any]:
        suite = next(ElementTree.parse(out / "tests.xml").getroot().iter("testsuite"))
        counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
        return {"bench": "tests", **counts, "failed": failed}

    return report


def zero_report(out: Path) -> Callable[[Path], dict[str, Any]]:
    def report(_: Path) -> dict[str, Any]:
        return {"bench": "zero", "rows": [read_json(file) for file in sorted(out.glob("zero-*.json"))]}

    return report


def run(part: Part, out: Path, left: float) -> dict[str, Any]:
    """Runs a part; its report, how it ended and how long it took. All of its processes are ended with it."""
    limit = min(part.seconds or left, left)
    log = out / f"{part.name}.log"
    start = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env={**os.environ, **part.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    ended = {"name": part.name, "seconds": round(time.monotonic() - start, 1), "code": code, "limit": round(limit)}
    try:
        return {**ended, "report": part.report(log)}
    except (OSError, ValueError) as error:  # it ended before it had one
        return {**ended, "report": {}, "problem": str(error)}


# ------------------------------------------------------------------------------------------------------------- ZeRO


def run_zero(setting: Setting, out: Path) -> None:
    """LoRA under ZeRO-2 and -3 and the whole model under ZeRO-2, on one device, with memory beside the estimate."""
    make_parts(setting, out)
    for stage, zero in (("lora", 2), ("lora", 3), ("full", 2)):
        target = out / f"zero-{stage}-{zero}.json"
        if not target.exists():
            recipe = out / f"zero-{stage}-{zero}.yaml"
            recipe.write_text(json.dumps(tune_recipe(setting, out, stage, zero)))  # JSON is YAML
            write_json(target, launch(setting, recipe, stage, zero))


def make_parts(setting: Setting, out: Path) -> None:
    """A SparseFormer and a LLaMA of the setting's sizes with random weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from encoder import PRESETS, SparseFormerConfig, SparseFormerImageProcessor, SparseFormerVisionModel

    if not (out / "zero-encoder").is_dir():
        if setting.image_size == 224:
            SparseFormerVisionModel(SparseFormerConfig(**PRESETS[BASE].config)).save_pretrained(out / "zero-encoder")
            SparseFormerImageProcessor.for_preset(BASE).save_pretrained(out / "zero-encoder")
        else:
            (out / "zero-encoder").symlink_to((out / "sparse").resolve())
    if not (out / "zero-lm").is_dir():
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "mllm" / "embedded")
        tokenizer.save_pretrained(out / "zero-lm")
        config = LlamaConfig(**setting.lm, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(out / "zero-lm")


def tune_recipe(setting: Setting, out: Path, stage: str, zero: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "output": str(out / f"zero-{stage}-{zero}"),
        "encoder": str(out / "zero-encoder"),
        "language_model": str(out / "zero-lm"),
        "chat_template": "plain",
        "data": [f"synthetic:train:1000:size={setting.image_size}"],
        "max_length": 512,
        "trainer": {
            "max_steps": setting.steps,
            "per_device_train_batch_size": 8 if setting.device == "cuda" else 2,
            "bf16": setting.device == "cuda",
            "learning_rate": 1e-4,
            "logging_steps": 1,
            "save_strategy": "no",
        },
    }


def launch(setting: Setting, recipe: Path, stage: str, zero: int) -> dict[str, Any]:
    """One training under the launcher: exit code, seconds, the device's memory at its fullest, the estimate."""
    config = str(ROOT / "scripts" / "deepspeed" / f"zero{zero}.json")
    environment = {**os.environ, "PROCESSES": "1", "DEEPSPEED": config}
    before, most, start = device_memory(setting), 0, time.monotonic()
    command = ["bash", str(ROOT / "scripts" / f"{stage}.sh"), str(recipe)]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    while process.poll() is None:
        most = max(most, device_memory(setting) - before)
        time.sleep(0.2)
    told = subprocess.run(
        [sys.executable, "-m", "mllm", "info", str(recipe), "--gpus", "1", "--json"], capture_output=True, text=True
    )
    rows = json.loads(told.stdout)["training"] if told.returncode == 0 else []
    estimate = next((row["total"] for row in rows if (row["stage"], row["zero"]) == (stage, zero)), None)
    return {
        "stage": stage,
        "zero": zero,
        "code": process.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "memory": most if setting.device == "cuda" else None,
        "estimate": estimate,
    }


def device_memory(setting: Setting) -> int:
    """Bytes in use on the first GPU, the driver's own included; 0 without one."""
    if setting.device != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(0)
    return total - free


# ------------------------------------------------------------------------------------------------------------- page


def write_page(page: Path, machine: dict[str, Any], ended: list[dict[str, Any]]) -> None:
    """The page of what has been run so far."""
    opening = (
        "# Performance on a GPU\n\nMade by `scripts/gpu_check.sh`, and not by hand: random weights at true sizes. "
        f"{machine_line(machine)}\n"
    )
    words = {None: "stopped at its limit", 0: "done"}
    lines = [
        (part["name"], f"{part['seconds']}", words.get(part["code"], f"exit code {part['code']}")) for part in ended
    ]
    sections = [Section("Parts", "What was run, and how it ended.", [Table(1, ("part", "seconds", "end"), lines)])]
    sections += [_section(part["report"]) for part in ended if part["report"].get("bench")]
    write_whole(page, "\n".join([opening, *map(as_markdown, sections)]).encode())


def _section(report: dict[str, Any]) -> Section:
    kind = report["bench"]
    if kind == "kernels":
        rows = [(row["case"], f"{max(v for k, v in row.items() if k != 'case'):.1e}") for row in report["rows"]]
        about = (
            "The fused kernels against the reference in float64: largest relative difference of results and gradients."
        )
        return Section("Kernels", about, [Table(1, ("case", "difference"), rows)])
    if kind == "tests":
        told = ", ".join(f"{report[name]} {name}" for name in ("tests", "failures", "errors", "skipped"))
        return Section("Tests marked gpu", f"{told}.", [], [f"Failed: {name}" for name in report["failed"]])
    if kind == "zero":
        rows = [
            (
                row["stage"],
                str(row["zero"]),
                str(row["code"]),
                f"{row['seconds']}",
                _gib(row["memory"]),
                _gib(row["estimate"]),
            )
            for row in report["rows"]
        ]
        heads = ("stage", "ZeRO", "exit code", "seconds", "GiB on the device", "GiB by mllm info")
        about = "Training a 1.1B shape with a SparseFormer-CLIP-B/49 on one device, through the launcher."
        return Section("ZeRO", about, [Table(1, heads, rows)])
    return section(report)


def _gib(value: int | None) -> str:
    return "-" if value is None else f"{value / GIB:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--zero", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = Path(os.environ.get("OUT", "runs/gpu-dry-run" if args.dry_run else "runs/gpu")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not args.dry_run and not torch.cuda.is_available():
        sys.stderr.write("error: there is no GPU that torch can use; try --dry-run\n")
        return 2
    setting = dry_run(out) if args.dry_run else ON_A_GPU
    if args.zero:
        run_zero(setting, args.zero)
        return 0
    everything = parts(setting, out, args.dry_run)
    if args.dry_run:  # a CPU takes what it takes
        everything = [replace(part, seconds=0) for part in everything]
    if unknown := set(args.parts) - {part.name for part in everything}:
        sys.stderr.write(f"error: no part {min(unknown)}; parts: {' '.join(part.name for part in everything)}\n")
        return 2
    deadline = time.monotonic() + 60 * float(os.environ.get("MINUTES", "60" if args.dry_run else "10"))
    page = out / "page.md" if args.dry_run else ROOT / "docs" / "performance-gpu.md"
    machine = describe_machine(torch.device(setting.device))
    write_json(out / "machine.json", machine)
    for part in everything:
        target = out / f"{part.name}.json"
        left = deadline - time.monotonic()
        if not target.exists() and part.name in (args.parts or [each.name for each in everything]) and left > 5:
            sys.stderr.write(f"== {part.name}: at most {min(part.seconds or left, left):.0f} s\n")
            ended = run(part, out, left)
            sys.stderr.write(f"== {part.name}: {ended['seconds']} s, exit code {ended['code']}\n")
            # What failed is tried again by the next call, in case that fixes it; its record stays until then.
            write_json(target if ended["code"] == 0 else out / f"{part.name}.failed.json", ended)
        found = [out / f"{each.name}{end}" for each in everything for end in (".json", ".failed.json")]
        write_page(page, machine, [read_json(file) for file in found if file.exists()])
    bad = [part.name for part in everything if not (out / f"{part.name}.json").exists()]
    sys.stdout.write(f"{page}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""scripts/reproduce: from the first file to the table, on a miniature that is served on this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from data.files import read_json
from encoder import PRESETS, SparseFormerImageProcessor, load_official
from mllm.cli import main
from tests import loopback, miniature, tiny
from tests.test_scripts import write_command

ROOT = Path(__file__).parents[1]
REPRODUCE = ROOT / "scripts/reproduce"
LARGE = "sparseformer_btsp_openai_clip_large"
QUICK = [  # for models of a few thousand weights, without a launcher
    *("trainer.max_steps=2", "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1"),
    *("trainer.bf16=false", "trainer.gradient_checkpointing=false", "trainer.dataloader_num_workers=0"),
    *("trainer.deepspeed=null", "trainer.use_cpu=true", "max_length=256"),
]
# In place of python and mllm: what would take seconds to import is asked of the test's own process.
CLIENT = """#!{python} -SE
import json, os, socket, sys
if sys.argv[1:2] and sys.argv[1].endswith("download.py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect({address!r})
    asking.sendall(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]).encode() + b"\\n")
    code, out, err = json.loads(asking.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def answer(command: list[str]) -> int:
    """Does what `mllm ...`, `python SCRIPT ...` or the launcher with `--module mllm ...` would."""
    program, *arguments = command
    if program == "mllm" or "--module" in arguments:
        return main(arguments[arguments.index("--module") + 2 :] if "--module" in arguments else arguments)
    before, sys.argv = sys.argv, arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


class Shell:
    """Runs a script whose commands this process answers.

    Attributes:
        commands: all that were asked for.
        answer: does one, and gives its exit code.
        refuse: of which commands the next run's first ends with code 137, as if it had been killed.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.commands: list[list[str]] = []
        self.answer: Callable[[list[str]], int] = answer
        self.refuse: Callable[[list[str]], bool] | None = None
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **environment, "VIRTUAL_ENV": "set", "PATH": path}
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(folder / "s"))
        self.socket.listen()
        self.socket.settimeout(0.05)
        for name in ("python", "mllm"):
            write_command(folder / "bin" / name, "")
            (folder / "bin" / name).write_text(CLIENT.format(python=sys.executable, address=str(folder / "s")))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env={**self.environment, **environment})
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    connection, _ = self.socket.accept()
                    with connection, connection.makefile() as given:
                        self._answer(connection, json.loads(given.readline()))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())

    def _answer(self, connection: socket.socket, command: list[str]) -> None:
        self.commands.append(command)
        out, err, code = io.StringIO(), io.StringIO(), 137
        if self.refuse and self.refuse(command):
            self.refuse = None
        else:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = self.answer(command)
        connection.sendall(json.dumps([code, out.getvalue(), err.getvalue()]).encode())


@pytest.fixture
def shell(tmp_path, tmp_path_factory, monkeypatch):
    """A server of nothing yet, and a shell that downloads from it."""
    monkeypatch.chdir(ROOT)
    with loopback.serving(tmp_path / "served") as server:
        server.folder.mkdir()
        here = {"MIRROR": server.url, "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1", "RETRY_SECONDS": "0"}
        made = Shell(tmp_path_factory.mktemp("s"), here)
        made.server = server
        yield made
        made.socket.close()


def test_llava_from_the_first_file_to_the_table(shell, tmp_path, monkeypatch):
    small = miniature.preset()
    monkeypatch.setitem(PRESETS, LARGE, small)
    places = {
        "FILES": str(miniature.serve_llava(shell.server.folder, small, tmp_path)),
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "out"),
    }
    data, out = tmp_path / "data", tmp_path / "out"
    command = ["bash", str(REPRODUCE / "llava15.sh"), *QUICK]
    shell.server.cut[f"/{miniature.COCO}/train2017.zip"] = 300
    shell.refuse = lambda given: "gqa" in given
    first = shell.run(*command, **places)
    assert first.returncode == 137, first.stderr
    assert f"/{miniature.COCO}/train2017.zip@300" in shell.server.requests
    assert not (out / "eval/sparse/gqa/result.json").exists()
    asked, done = len(shell.server.requests), len(shell.commands)
    second = shell.run(*command, **places)
    assert second.returncode == 0, second.stderr
    assert len(shell.server.requests) == asked
    assert not any("projector" in word and "sparse" in word for words in shell.commands[done:] for word in words[:3])
    table = second.stdout.splitlines()[-7:]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in table)}
    assert rows["**sparse**"][:3] == ["ours, measured here", "5", "upload"]
    assert rows["**dense**"][:3] == ["ours, measured here", "16", "upload"]
    assert all(rows["**dense**"][3:])
    assert rows["TokenPacker"] == ["published, arXiv 2407.02392", "64", "77.2", "61.1", "", "86.3", "", "", "64.1", ""]
    assert (out / "table.md").read_text().splitlines() == table
    assert [read_json(out / f"checked/{name}.json")["problems"] for name in ("pretrain", "instruct")] == [[], []]
    boxed = [sample for sample in read_json(out / "llava_v1_5_mix665k.json") if "objects" in sample]
    assert boxed[0]["objects"]["bbox"] == [[0.25, 0.25, 0.75, 1.0]]  # of 40 x 32 pixels, with 4 above and below
    assert boxed[0]["conversations"][1]["value"] == "<bbox>"
    weights = data / "weights/clip-vit-large-patch14-336/pytorch_model.bin"
    assert (out / "encoders/dense/pytorch_model.bin").samefile(weights)
    processor = read_json(out / "encoders/dense/preprocessor_config.json")
    assert (processor["do_center_crop"], processor["size"]) == (False, {"height": 32, "width": 32})
    assert os.readlink(data / "eval/gqa/data/images") == "../../../gqa/images"
    done = len(shell.commands)
    assert shell.run(*command, **places).returncode == 0
    assert [words[1].rpartition("/")[2] for words in shell.commands[done:]] == ["table.py"]


def test_a_dry_run_tells_steps_disk_gpus_and_hours(shell, tmp_path):
    asked: list[list[str]] = []
    stages = ("projector", "full")
    memory = {"gpu_gib": 80, "total": 60 * 2**30}
    report = {
        "training": [{"stage": stage, "zero": zero, **memory} for stage in stages for zero in (2, 3)],
        "time": {
            **{"count": 1000, "length": 144, "tflops": 125.0},
            "stages": [{"stage": stage, "hours": 1.5} for stage in stages],
        },
        "step": {"gpus": 4},
    }

    def told(command: list[str]) -> int:
        asked.append(command)
        if command[0] != "mllm":
            return answer(command)
        sys.stdout.write(json.dumps(report))
        return 0

    shell.answer = told
    places = {"DATA": str(tmp_path / "data"), "OUT": str(tmp_path / "out"), "MODELS": "sparse", "BENCHMARKS": "pope"}
    done = shell.run("bash", str(REPRODUCE / "llava15.sh"), "--dry-run", GPUS="4", STAGE2="full", **places)
    assert done.returncode == 0, done.stderr
    assert "19.34 GB  coco/train2017" in done.stdout
    assert "refcoco" not in done.stdout
    assert "sparse, stage full: 4 GPUs of at least 80 GB (60 GiB each under ZeRO-3), 1.5 hours" in done.stdout
    assert "trainings: 3.0 hours if a GPU computes 125 TFLOPS; not measured" in done.stdout
    assert "trainer.gradient_accumulation_steps=2" in done.stderr
    assert asked[0][asked[0].index("--mean-length") :][:2] == ["--mean-length", "144"]
    assert not (tmp_path / "out").exists()
    assert shell.server.requests == []
    assert shell.run("bash", str(REPRODUCE / "llava15.sh"), GPUS="3").returncode == 2
    assert "error: --dryrun: give key=value" in shell.run("bash", str(REPRODUCE / "llava15.sh"), "--dryrun").stderr
    for script in ("llava15.sh", "imagenet.sh"):
        assert "HF_ENDPOINT" in shell.run("bash", str(REPRODUCE / script), "--help").stdout


def test_imagenet_from_the_first_file_to_the_table(shell, tmp_path, monkeypatch):
    """Three classes; a classifier by its own head, and a student with its teacher's text tower beside the teacher."""
    names = ["goldfish", "hen", "castle"]
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", names)
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", [lambda name: f"a photo of a {name}."])
    _, weights = tiny.named_clip(monkeypatch, tmp_path, "ViT-L-14-quickgelu")
    hub = shell.server.folder / "hub/models/timm/vit_large_patch14_clip_224.openai"
    hub.mkdir(parents=True)
    save_file(torch.load(weights), hub / "open_clip_model.safetensors")
    small = {"sparseformer_v1_tiny": miniature.preset(3), LARGE: miniature.preset(projection_dim=24)}
    for name, preset in small.items():
        monkeypatch.setitem(PRESETS, name, preset)
        miniature.release_file(preset, shell.server.folder / miniature.RELEASE / f"{name}_converted.pth")
    images = tmp_path / "val"
    for number in range(12):
        (images / f"n0000000{number % 3}").mkdir(parents=True, exist_ok=True)
        tiny.image(number).save(images / f"n0000000{number % 3}" / f"{number}.png")
    places = {"OUT": str(tmp_path / "out"), "OPTIONS": "--workers 0 --device cpu"}
    command = ["bash", str(REPRODUCE / "imagenet.sh"), str(images), *small]
    told = shell.run(*command[:2], "--dry-run", *command[2:], **places)
    assert told.returncode == 0, told.stderr
    assert "about 1.7 GB  ViT-L-14-quickgelu.safetensors" in told.stdout
    assert shell.commands == []
    shell.refuse = lambda given: given[1] == "zeroshot" and LARGE in given[-1]
    assert shell.run(*command, **places).returncode == 137
    done = len(shell.commands)
    second = shell.run(*command, **places)
    assert second.returncode == 0, second.stderr
    assert [words[1].rpartition("/")[2] for words in shell.commands[done:]] == ["zeroshot", "imagenet_table.py"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in second.stdout.splitlines()[-3:]]
    model = load_official("sparseformer_v1_tiny", tmp_path / "out/files/sparseformer_v1_tiny.pth")
    processor = SparseFormerImageProcessor.for_preset("sparseformer_v1_tiny")
    with torch.no_grad():
        seen = [tiny.image(number) for number in range(12)]
        logits = model(**processor(images=seen, return_tensors="pt")).image_embeds
    top_1 = (logits.argmax(dim=1) == torch.arange(12) % 3).double().mean()
    assert rows[0][0] == "sparseformer_v1_tiny"
    assert rows[0][3:] == ["12", "its own classifier", f"{100 * top_1:.2f}", "100.00", "81.0"]
    assert [row[0] for row in rows[1:]] == [LARGE, "ViT-L-14-quickgelu"]
    assert [row[1] for row in rows[1:]] == ["5", "17"]
    assert all(row[3:5] == ["12", "zero-shot"] for row in rows[1:])

"""The real launcher: two processes on the CPU under ZeRO-2 and ZeRO-3, killed, resumed, merged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import open_clip
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.sources import open_conversations
from encoder import load_clip
from encoder.training.metrics import METRICS
from encoder.training.recipes import load_recipe
from mllm.cli import main
from mllm.finetuning.data import Collator, EncodedConversations
from mllm.finetuning.merge import merge
from mllm.finetuning.recipe import FinetuneRecipe
from mllm.finetuning.run import finetune
from mllm.loading import load_model, load_plain
from tests import recipes, test_scripts, tiny

pytestmark = pytest.mark.launch

SCRIPTS = Path(__file__).parents[1] / "scripts"
DEEPSPEED = SCRIPTS / "deepspeed"
PATIENCE = 600  # seconds; the first launch on a machine compiles a part of DeepSpeed, one or two minutes
# Samples go to the two processes in turn: now one has images, now the other, now both, now neither.
# t: text alone, p: one image, m: three.
ORDER = "pttmppttmtptmmtptppttm" * 6
IMAGES = {"t": 0, "p": 1, "m": 3}


@pytest.fixture(autouse=True)
def memory_is_given_back():
    """No launch leaves DeepSpeed's buffers behind, however it ends."""

    def buffers() -> set[Path]:
        return set(Path("/dev/shm").glob("deepspeed_allreduce_buffer_*"))

    before = buffers()
    yield
    assert buffers() <= before


def start(stage: str, recipe: Path, *more: str, slurm: dict[str, str] | None = None) -> subprocess.Popen:
    """A launch script, or under `slurm`, the variables of a job, scripts/slurm.sh with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.Popen(
        ["bash", *([str(SCRIPTS / "slurm.sh")] if slurm else []), str(SCRIPTS / f"{stage}.sh"), str(recipe), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=recipe.parent,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "OMP_NUM_THREADS": "1",
            "PROCESSES": "2",
            "MASTER_PORT": str(port),
            **(slurm or {}),
        },
    )


def run(stage: str, recipe: Path, *more: str, slurm: dict[str, str] | None = None) -> str:
    """The output of a launch that must succeed."""
    process = start(stage, recipe, *more, slurm=slurm)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        kill(process)
    assert process.returncode == 0, output
    return output


def run_until(step: int, stage: str, recipe: Path, output: str = "out") -> dict[int, float]:
    """The losses of a launch up to a step, all of whose processes are then killed with SIGKILL."""
    process = start(stage, recipe)
    reading = threading.Thread(target=process.stdout.read, daemon=True)
    reading.start()
    try:
        for _ in range(100 * PATIENCE):
            found = losses(recipe.parent / output)
            if (found and max(found) >= step) or process.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        kill(process)
    assert max(losses(recipe.parent / output)) >= step
    return losses(recipe.parent / output)


def kill(process: subprocess.Popen) -> None:
    """Kill -9 the launcher, then what it started."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        children = parent.children(recursive=True)
        for each in (parent, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        psutil.wait_procs([parent, *children], timeout=30)
    process.wait()
    process.stdout.close()


def losses(output: Path) -> dict[int, float]:
    """By step; of several stages those of the last one."""
    log = json.loads((output / METRICS).read_text())["log"] if (output / METRICS).is_file() else []
    return {entry["step"]: entry["loss"] for entry in log if entry.get("stage") == log[-1].get("stage")}


def write_data(folder: Path) -> str:
    samples = []
    for index, kind in enumerate(ORDER):
        names = [f"{(index + number) % 7}.png" for number in range(IMAGES[kind])]
        value = "<image>\n" * len(names) + ("Is it red?" if names else "Is it large?")
        answer = "Yes, there is one." if index % 2 else "No."
        sample = {
            "id": str(index),
            "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": answer}],
        }
        if names:
            sample["image"] = names
        for name in names:
            tiny.image(int(name[0])).save(folder / name)
        samples.append(sample)
    (folder / "data.json").write_text(json.dumps(samples))
    return str(folder / "data.json")


def write_recipe(folder: Path, **values) -> Path:
    trainer = {
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": 1e-2,
        "logging_steps": 1,
        **values.pop("trainer"),
    }
    recipe = {"data": [write_data(folder)], "output": str(folder / "out"), **values, "trainer": trainer}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def alone(recipe: Path, *more: str) -> None:
    """The recipe in this process, in batches that are as large as those of two processes together."""
    size = 2 * yaml.safe_load(recipe.read_text())["trainer"]["per_device_train_batch_size"]
    finetune(load_recipe(FinetuneRecipe, recipe, [f"trainer.per_device_train_batch_size={size}", *more]))


def assert_same_weights(file: str, one: Path, other: Path, atol: float, rtol: float) -> None:
    expected, found = (load_file(folder / file) for folder in (one, other))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_projector_packed_under_zero2_survives_kill_9(encoder_dir, language_model_dir, tmp_path):
    recipe = write_recipe(
        tmp_path,
        stage="projector",
        encoder=str(encoder_dir),
        language_model=str(language_model_dir),
        packing=True,
        trainer={"max_steps": 12, "save_steps": 4, "per_device_train_batch_size": 2},
    )
    killed = run_until(7, "projector", recipe)
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    shutil.rmtree(tmp_path / "out" / "checkpoint-8", ignore_errors=True)  # the launcher may have got so far
    run("projector", recipe, "--resume")
    resumed = losses(tmp_path / "out")
    assert list(resumed) == list(range(1, 13))  # none is lost, none there twice
    assert {step: resumed[step] for step in range(1, 8)} == {step: killed[step] for step in range(1, 8)}
    model = load_plain(tmp_path / "out")
    weights = load_file(encoder_dir / "model.safetensors")
    for name, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(weights[name], value)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_bootstrap_under_zero2_survives_kill_9(open_clip_dir, tmp_path):
    stages = [
        {"name": "focusing", "steps": 2, "learning_rates": {"focusing": 1e-2}},
        {"name": "early", "steps": 12, "learning_rates": {"focusing": 1e-2, "early": 1e-3}, "elastic": [2, 5]},
    ]
    more = {"losses": {"cosine": 1.0, "relational": 0.5}, "ema": 0.9, "teacher_cache": str(tmp_path / "seen")}
    recipe = recipes.bootstrap(tmp_path, open_clip_dir, stages=stages, **more)
    killed = run_until(5, "bootstrap", recipe, "student")
    shutil.rmtree(tmp_path / "student/stage-2-early/checkpoint-5", ignore_errors=True)  # it may have got so far
    output = run("bootstrap", recipe, "--resume")
    resumed = losses(tmp_path / "student")
    assert list(resumed) == list(range(1, 13))
    assert {step: resumed[step] for step in range(1, 6)} == {step: killed[step] for step in range(1, 6)}
    log = json.loads((tmp_path / "student" / METRICS).read_text())["log"]
    assert [entry["step"] for entry in log if entry["stage"] == "focusing"] == [1, 2]
    assert "held-out cosine to its teacher" in output
    clip, _, _ = load_clip(tmp_path / "student")
    teacher, _, _ = open_clip.create_model_and_transforms(f"local-dir:{open_clip_dir}")
    tower = clip.visual.model
    assert torch.equal(tower.projection.weight, teacher.visual.proj.T)


def test_sigterm_to_a_launch_saves_on_all_processes_at_the_same_step(open_clip_dir, tmp_path):
    """Random views and a worker; SIGTERM to the script alone, as `kill` sends it."""
    stages = [{"name": "a", "steps": 12, "learning_rates": {"focusing": 1e-2}}]
    recipe = recipes.bootstrap(tmp_path, open_clip_dir, stages=stages, crop_scale=0.3, flip=True)
    more = ["trainer.save_steps=1000", "trainer.dataloader_num_workers=1"]
    run("bootstrap", recipe, *more, f"output={tmp_path / 'whole'}")
    process = start("bootstrap", recipe, *more)
    alarm = threading.Timer(PATIENCE, kill, [process])
    alarm.start()
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
    alarm.cancel()
    assert process.wait() == 143, output
    last = max(losses(tmp_path / "student"))
    assert output.count(f"terminated after step {last}/12, saved as ") == 1, output
    assert [path.name for path in (tmp_path / "student/stage-1-a").iterdir()] == [f"checkpoint-{last}"]
    assert main(["bootstrap", str(recipe), *more, "--resume"]) == 2  # one process cannot go on from two
    run("bootstrap", recipe, *more, "--resume")
    assert_same_weights("model.safetensors", tmp_path / "whole", tmp_path / "student", atol=0, rtol=0)


def test_without_deepspeed_checkpointed_activations_change_nothing(open_clip_dir, tmp_path):
    """Two processes of torchrun, with other numbers of tokens."""
    stages = [{"name": "a", "steps": 3, "learning_rates": {"focusing": 1e-2, "early": 1e-3}, "elastic": [2, 5]}]
    recipe = recipes.bootstrap(tmp_path, open_clip_dir, stages=stages, zero_shot=[])
    for checkpointing in ("true", "false"):
        command = ["bootstrap", str(recipe), f"trainer.gradient_checkpointing={checkpointing}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mllm"]
        done = subprocess.run(
            [*torchrun, *command, f"output={tmp_path / checkpointing}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
    assert_same_weights("model.safetensors", tmp_path / "false", tmp_path / "true", atol=1e-5, rtol=1e-4)


def test_lora_under_zero3_in_bfloat16_survives_kill_9_and_merges_to_equal_logits(model_dir, tmp_path):
    recipe = write_recipe(
        tmp_path,
        stage="lora",
        model=str(model_dir),
        lora={"rank": 4, "alpha": 8, "dropout": 0.0},
        projector_learning_rate=5e-3,
        trainer={"max_steps": 12, "bf16": True, "save_steps": 5},
    )
    killed = run_until(9, "lora", recipe)
    assert (tmp_path / "out" / "checkpoint-5").is_dir()
    shutil.rmtree(tmp_path / "out" / "checkpoint-10", ignore_errors=True)  # the launcher may have got so far
    run("lora", recipe, "--resume")
    resumed = losses(tmp_path / "out")
    assert list(resumed) == list(range(1, 13))
    assert {step: resumed[step] for step in range(1, 10)} == {step: killed[step] for step in range(1, 10)}
    before = load_file(model_dir / "model.safetensors")
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    learned = [value for name, value in weights.items() if "lora_B" in name]
    assert learned
    assert all(value.abs().max() > 0 for value in learned)
    projector = {
        name.removeprefix("base_model.model."): value for name, value in weights.items() if "projector" in name
    }
    assert projector.keys() == {name for name in before if "multi_modal_projector" in name}
    assert all((value - before[name]).abs().max() > 1e-3 for name, value in projector.items())

    adapted, processor = load_model(tmp_path / "out")
    merged = load_plain(merge(tmp_path / "out", tmp_path / "model")).eval()
    samples = EncodedConversations(open_conversations([str(tmp_path / "data.json")]), processor)
    inputs = Collator(processor.tokenizer.pad_token_id)([samples[0], samples[1]])
    with torch.no_grad():
        expected = adapted(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        assert (load_plain(model_dir).eval()(**inputs).logits - expected).abs().max() > 0.01


def test_under_zero3_a_language_model_that_is_referred_to_trains_as_a_copy(
    encoder_dir, bpe_language_model_dir, tmp_path
):
    """Loaded in parts by reference, and saved by reference, where its embeddings are tied and get a new row."""
    parts = {"encoder": str(encoder_dir), "language_model": str(bpe_language_model_dir)}
    trainer = {"max_steps": 3, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    recipe = write_recipe(tmp_path, stage="projector", **parts, trainer=trainer)
    alone(recipe, f"output={tmp_path / 'expected'}")
    zero3 = f"trainer.deepspeed={DEEPSPEED / 'zero3.json'}"
    run("projector", recipe, zero3, "reference_language_model=true")
    assert list(losses(tmp_path / "out")) == [1, 2, 3]
    assert "language_model_reference" in (tmp_path / "out" / "config.json").read_text()
    expected, found = (load_plain(tmp_path / name).state_dict() for name in ("expected", "out"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", ["zero3.json", "zero2_offload.json"])
def test_full_stage_packed_trains_as_one_padded_process_does(config, elastic_dir, tmp_path):
    """The encoder trains too, and gets no image in some steps of a process, once in a step of both.

    Each image has a size and a number of tokens of its own.
    """
    # Some gradients are zero but for rounding, such as those of the keys' biases; so small an eps would follow them.
    trainer = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
    budgets = {"image_tokens": [2, 9], "image_sizes": [24, 48], "image_focus": 0.3}
    recipe = write_recipe(
        tmp_path, stage="full", model=str(elastic_dir), train_encoder=True, packing=True, trainer=trainer, **budgets
    )
    alone(recipe, "packing=false", f"output={tmp_path / 'expected'}")
    run("full", recipe, f"trainer.deepspeed={DEEPSPEED / config}")
    assert list(losses(tmp_path / "out")) == [1, 2, 3, 4]
    assert_same_weights("model.safetensors", tmp_path / "expected", tmp_path / "out", atol=1e-5, rtol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (elastic_dir, tmp_path / "out"))
    moved = {name for name, value in before.items() if (after[name] - value).abs().max() > 1e-4}
    for part in ("vision_tower", "multi_modal_projector", "language_model", "lm_head"):
        assert any(part in name for name in moved), part


def test_two_machines_with_weights_in_main_memory_go_on_from_an_adapter_as_one_process_does(model_dir, tmp_path):
    """Two launchers of one process each, as SLURM would start them; both find the first "machine" at localhost."""
    trainer = {"max_steps": 3, "learning_rate": 1e-3}
    values = {"stage": "lora", "model": str(model_dir), "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
    recipe = write_recipe(tmp_path, **values, trainer=trainer)
    alone(recipe, f"output={tmp_path / 'first'}")
    alone(recipe, f"output={tmp_path / 'expected'}", f"model={tmp_path / 'first'}")
    test_scripts.write_command(tmp_path / "bin" / "scontrol", "printf 'localhost\\n127.0.0.1\\n'")
    tasks = """while [[ $1 == --* ]]; do shift; done
for id in 0 1; do SLURM_NODEID=$id "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait $task || exit; done"""
    test_scripts.write_command(tmp_path / "bin" / "srun", tasks)
    job = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "two",
        "PROCESSES": "1",
        "DEEPSPEED": str(DEEPSPEED / "zero3_offload.json"),
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    run("lora", recipe, f"model={tmp_path / 'first'}", f"output={tmp_path / 'out'}", slurm=job)
    assert list(losses(tmp_path / "out")) == [1, 2, 3]
    assert_same_weights("adapter_model.safetensors", tmp_path / "expected", tmp_path / "out", atol=1e-4, rtol=1e-3)


def test_machines_get_their_command_through_pdsh_word_by_word(tmp_path):
    """The real runner; pdsh is one that lets a shell read the command, as on the other machines, and prints it."""
    (tmp_path / "hosts").write_text("node-a slots=2\n")  # even a single one is not taken for this machine
    words = ["finetune", "r.yaml", "lora={rank: 8}", "data=[a.json,b.json]", "stages=[{name:a,steps:1},{name:b}]"]
    test_scripts.write_command(tmp_path / "bin" / "ssh", "echo 10.0.0.1")
    shell = 'line="$*"; eval "printf \'%s\\n\' ${line##*deepspeed.launcher.launch}"'
    test_scripts.write_command(tmp_path / "bin" / "pdsh", shell)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "launch.sh"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "VIRTUAL_ENV": sys.prefix,
            "HOSTFILE": "hosts",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-len(words) - 1 :] == ["mllm", *words]
    assert "--master_addr=10.0.0.1" in lines

"""What the command line imports, and that the Auto classes know our models however a program imports us.

Each case is a process of its own: what was imported stays so.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import benchmark_files as files

HEAVY = {"torch", "torchvision", "transformers", "open_clip", "timm", "peft", "deepspeed", "datasets", "pandas"}
COMMAND = """
import sys
from mllm_command import main
try:
    code = main()
except SystemExit as leave:
    code = leave.code
print()
print(code, *sys.modules)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False)


def last_words(*arguments: str) -> list[str]:
    """The last line that a program writes, in words."""
    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def heavy_imports(line: str) -> tuple[str, set[str]]:
    """The exit code of a command line and which of `HEAVY` it imported."""
    code, *modules = last_words("-c", COMMAND, *line.split())
    assert "mllm.cli" in modules
    return code, HEAVY.intersection(modules)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", "0"),
        ("eval --help", "0"),
        ("finetune --help", "0"),
        ("score nothing", "2"),
        ("chat --prompt what?", "2"),  # without an image
        ("eval pope", "2"),  # without questions
    ],
)
def test_help_and_refusals_import_nothing_heavy(line, code):
    assert heavy_imports(line) == (code, set())


def test_scores_and_tables_import_nothing_heavy(tmp_path):
    annotations = files.pope_annotations(tmp_path / "coco", {"random": [("0.png", "Is it red?", "yes")]})
    questions = files.questions(tmp_path / "asked.jsonl", [(0, "0.png", "Is it red?", "random")])
    answers = files.answers(tmp_path / "answers.jsonl", [(0, "Yes")])
    given = f"--questions {questions} --answers {answers} --annotations {annotations}"
    assert heavy_imports(f"score pope {given}") == ("0", set())
    assert heavy_imports(f"results {tmp_path}") == ("2", set())  # there is none yet


def test_a_run_module_imports_nothing_heavy_either():
    done = python("-X", "importtime", "-m", "mllm", "--help")
    imported = {line.split()[-1] for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "mllm.cli" in imported
    assert not HEAVY & imported


def test_chat_imports_what_it_uses(model_dir, tmp_path):
    from tests import tiny

    tiny.image().save(tmp_path / "a.png")
    line = f"chat --model {model_dir} --image {tmp_path}/a.png --prompt red? --max-new-tokens 2"
    assert heavy_imports(line) == ("0", {"torch", "torchvision", "transformers"})


@pytest.mark.parametrize("first", ["mllm", "transformers"])
def test_a_program_that_imports_mllm_has_all_of_it(model_dir, first):
    program = f"""
import {first}, mllm, sys
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
pipe = pipeline("image-text-to-text", model=sys.argv[1])
names = [type(part).__name__ for part in (config, config.vision_config, model, pipe.model, pipe.processor)]
print(*names, *(callable(getattr(mllm, name)) for name in mllm.__all__))
"""
    model = "MLLMForConditionalGeneration"
    names = ["MLLMConfig", "SparseFormerConfig", model, model, "MLLMProcessor"]
    assert last_words("-c", program, str(model_dir)) == [*names, *["True"] * 6]

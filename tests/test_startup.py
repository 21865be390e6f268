"""What the command line imports, and that the Auto classes know our models however a program imports us.

Each case is a process of its own: what was imported stays so.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import benchmark_files as files

SLOW = {"torch", "torchvision", "transformers", "open_clip", "timm", "peft", "deepspeed", "datasets", "pandas", "numpy"}
COMMAND = """
import sys
from mllm.cli import main
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
    """The exit code of a command line and which of `SLOW` it imported."""
    code, *modules = last_words("-c", COMMAND, *line.split())
    assert "mllm.cli" in modules
    return code, SLOW.intersection(modules)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", "0"),
        ("eval --help", "0"),
        ("finetune --help", "0"),
        ("serve --help", "0"),
        ("serve --host 0.0.0.0", "2"),  # without a key
        ("score nothing", "2"),
        ("chat --prompt what?", "2"),  # without an image
        ("eval pope", "2"),  # without questions
        ("eval synthetic --annotations x", "2"),  # it has none
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
    assert not SLOW & imported


def test_chat_imports_what_it_uses(model_dir, tmp_path):
    from tests import tiny

    tiny.image().save(tmp_path / "a.png")
    line = f"chat --model {model_dir} --image {tmp_path}/a.png --prompt red? --max-new-tokens 2"
    assert heavy_imports(line) == ("0", {"torch", "torchvision", "transformers", "numpy"})


ORDERS = [
    "import mllm",
    "import transformers, mllm",
    "import mllm, transformers, importlib; importlib.reload(transformers); importlib.reload(mllm)",
    "import mllm, importlib.util; assert importlib.util.find_spec('transformers').loader.get_filename()",
    "import encoder, transformers, mllm",
    # our own modules are the first to import transformers, and are half imported then
    "import mllm.configuration",
    "from mllm.modeling import MLLMModel",
    "import mllm, encoder.configuration",
    "from mllm import *",
    "import mllm, threading; other = threading.Thread(target=__import__, args=('transformers',)); other.start(); "
    "other.join()",
]
CLASSES = ["MLLMConfig", "SparseFormerConfig", "MLLMForConditionalGeneration", "MLLMProcessor"]
FORKED = """
import os, sys
import PIL.Image, numpy, torch, torchvision  # once: they take longest, and are not what this is about
for program in sys.argv[2:]:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, program
        continue
    try:
        exec(program)
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
        config = AutoConfig.from_pretrained(sys.argv[1])
        model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
        parts = config, config.vision_config, model, AutoProcessor.from_pretrained(sys.argv[1])
        assert [type(part).__name__ for part in parts] == CLASSES
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)
print("known")
"""


def test_auto_classes_know_the_model_in_any_order_of_imports(model_dir):
    assert last_words("-c", f"CLASSES = {CLASSES}\n{FORKED}", str(model_dir), *ORDERS) == ["known"]


def test_auto_classes_know_the_encoder_alone():
    program = "import encoder, sys; from transformers import AutoConfig; print(AutoConfig.for_model('sparseformer'))"
    assert last_words("-c", f"{program}; print('mllm.modeling' in sys.modules)") == ["False"]


def test_pipelines_and_public_names(model_dir):
    program = """
import mllm, sys
from transformers import pipeline
pipe = pipeline("image-text-to-text", model=sys.argv[1])
print(type(pipe.model).__name__, type(pipe.processor).__name__, all(getattr(mllm, name) for name in mllm.__all__))
"""
    assert last_words("-c", program, str(model_dir)) == [*CLASSES[2:], "True"]


def test_a_spawned_process_gets_what_it_is_sent(model_dir, tmp_path):
    (tmp_path / "program.py").write_text("""
import multiprocessing, sys
import mllm

def kind(config):
    from transformers import AutoModel
    return type(AutoModel.from_config(config)).__name__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(kind, [mllm.MLLMConfig.from_pretrained(sys.argv[1])]))
""")
    assert last_words(str(tmp_path / "program.py"), str(model_dir)) == ["MLLMModel"]


@pytest.mark.parametrize("package", ["data", "encoder", "mllm", "encoder.training"])
def test_packages_import_nothing_heavy(package):
    assert not SLOW & set(last_words("-c", f"import {package}, sys; print(*sys.modules)"))


def test_unknown_names_are_told():
    import encoder
    import mllm

    for package in (encoder, mllm):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            _ = package.nothing

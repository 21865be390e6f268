"""Recipes: what is refused and in which words; all that are in scripts/recipes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import InputError
from data.synthetic.scene import SceneConfig
from encoder.training.arguments import arguments
from encoder.training.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "scripts" / "recipes").rglob("*.yaml"))


@dataclass
class Inner:
    width: int = 8
    rate: float = 0.1
    name: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError("inner.width: must be at least 1")


@dataclass
class Outer:
    output: str
    inner: Inner = field(default_factory=Inner)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    sizes: list[int] = field(default_factory=list)
    parts: list[Inner] = field(default_factory=list)
    trainer: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_values_types_and_overrides(write):
    path = write(
        "output: here\ninner: {width: 3, rate: 1e-3}\nscenes: {height: 40}\n"
        "sizes: [1, 2]\nparts: [{width: 2}]\ntrainer: {max_steps: 5}\n"
    )
    recipe = load_recipe(Outer, path, ["inner.name=yes it is", "trainer.seed=7", "sizes=[4]", "inner.width=9"])
    assert recipe == Outer(
        "here", Inner(9, 1e-3, "yes it is"), SceneConfig(height=40), [4], [Inner(2)], {"max_steps": 5, "seed": 7}
    )
    assert isinstance(recipe.scenes, SceneConfig)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "output: x\ninner: {widht: 3}",
            (),
            r"recipe .*recipe\.yaml: section 'inner': unknown key 'widht'; the keys are name, rate, width",
        ),
        ("outputs: x", (), r"unknown key 'outputs'; the keys are inner, output, parts, scenes, sizes, trainer"),
        ("output: x", ("inner.depth=3",), r"override 'inner\.depth=3': section 'inner': unknown key 'depth'"),
        ("output: x", ("inner.width",), r"override 'inner\.width': expected key=value"),
        ("output: x\ninner: {width: many}", (), r"recipe\.yaml: inner\.width: Value 'many' .* Integer"),
        ("output: x\ninner: {width: 2.5}", (), r"inner\.width: .*2\.5"),
        ("output: x\ninner: 3", (), r"recipe\.yaml: inner: expected a section with the keys width, rate, name, not 3"),
        ("output: x\ninner:", (), r"recipe\.yaml: inner: .*None"),
        (
            "output: x\nparts: [{width: 2}, {wide: 2}]",
            (),
            r"section 'parts\[1\]': unknown key 'wide'; the keys are name",
        ),
        ("output: x\nparts: [3]", (), r"recipe\.yaml: parts\[0\]: expected a section"),
        ("output: x\nsizes: [a]", (), r"sizes\[0\]: Value 'a'"),
        ("inner: {width: 3}", (), r"recipe\.yaml: output is missing"),
        ("output: x\ninner: {width: 0}", (), r"recipe\.yaml: inner\.width: must be at least 1"),
        ("output: x\nscenes: {min_objects: 5, max_objects: 2}", (), r"recipe\.yaml: min_objects=5, max_objects=2: "),
        ("output: x\ntrainer: !!omap [a: 1]", (), r"recipe\.yaml: trainer: expected keys and values, not "),
        ("output: x\nsizes: {a: 1}", (), r"recipe\.yaml: sizes: expected a list, not "),
        ("output: x\nzz: !!set {a, b}", (), r"recipe\.yaml: zz: Value 'set' is not a supported primitive type"),
        ("output: x\ntrainer: {null: 1}", (), r"recipe\.yaml: trainer: Incompatible key type"),
        ("output: !!python/object/apply:os.getcwd []", (), r"not valid YAML: could not determine a constructor"),
        ("output: x\ntrainer: &a {b: *a}", (), r"recipe\.yaml: .*recursive"),
        ("output: x\ninner:\n\twidth: 3", (), r"not valid YAML: .*cannot start any token"),
        ("output: x\noutput: y", (), r"not valid YAML: .*duplicate key output"),
        ("output: x\n---\noutput: y", (), r"not valid YAML: expected a single document"),
        ("output: x\ntrainer: {rates: [1e400]}", (), r"recipe\.yaml: trainer\.rates\.0: inf is no finite number"),
        ("output: x\ninner: {rate: .nan}", (), r"recipe\.yaml: inner\.rate: nan is no finite number"),
        ("output: x", ("inner.rate=.inf",), r"inner\.rate: inf is no finite number"),
        (f"output: x\ninner: {{width: {'1' * 5000}}}", (), r"recipe\.yaml: Exceeds the limit"),
        ("output: ${nothing}", (), r"recipe\.yaml: output: Interpolation key 'nothing' not found"),
        ("output: '${'", (), r"recipe\.yaml: output: no viable alternative"),
        ("3", (), r"recipe\.yaml: Invalid loaded object type: int"),
        (f"output: x\ntrainer: {'[' * 3000}", (), r"recipe\.yaml: "),
        ("#" * 2**20 + "\noutput: x", (), r"recipe\.yaml: has 1,048,586 bytes; a recipe has at most 1,048,576"),
        ("output: [", (), r"recipe\.yaml: not valid YAML: "),
        ("- a\n- b", (), r"expected keys and values at the top, found a list"),
    ],
)
def test_refused_in_one_line(write, text, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(Outer, write(text), overrides)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400  # the folder's name is a part of it


def test_a_bare_no_is_a_word_where_no_is_a_choice(tmp_path):
    trainer = yaml.safe_load("{save_strategy: no, eval_strategy: no, bf16: no, max_steps: 1}")
    args = arguments(trainer, tmp_path / "out")
    assert (args.save_strategy, args.eval_strategy, args.bf16) == ("no", "no", False)


def test_the_home_directory_wherever_a_path_may_stand(tmp_path, monkeypatch):
    from mllm.finetuning.recipe import FinetuneRecipe

    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "recipe.yaml").write_text(
        "stage: lora\noutput: ~/out\nmodel: ~/m\ndata: [~/a.json, 'datasets:~/b:train', synthetic:train:10]\n"
        "lora: {targets: '~x'}\ntrainer: {deepspeed: ~/z.json, max_steps: 9}\n"
        "curriculum: [{steps: 1, data: [~/c.json]}]\n"
    )
    recipe = load_recipe(FinetuneRecipe, tmp_path / "recipe.yaml", ["image_folder=~/images"])
    assert (recipe.output, recipe.model, recipe.image_folder) == ("/home/me/out", "/home/me/m", "/home/me/images")
    assert recipe.data == ["/home/me/a.json", "datasets:/home/me/b:train", "synthetic:train:10"]
    assert recipe.trainer == {"deepspeed": "/home/me/z.json", "max_steps": 9}
    assert (recipe.curriculum[0].data, recipe.lora.targets) == (["/home/me/c.json"], "~x")


def test_an_item_of_a_list_can_be_overridden(tmp_path):
    from encoder.bootstrapping.recipe import BootstrapRecipe

    path = tmp_path / "recipe.yaml"
    path.write_text("output: o\nteacher: t\nimages: [a, b]\nheld_out: c\nstages: [{}, {name: late, steps: 5}]\n")
    given = ["stages.1.steps=7", "stages[0].learning_rates.late=0.5", "images.1=z"]
    recipe = load_recipe(BootstrapRecipe, path, given)
    assert [(stage.name, stage.steps) for stage in recipe.stages] == [("focusing", 1000), ("late", 7)]
    assert recipe.stages[0].learning_rates == {"focusing": 1e-3, "late": 0.5}
    assert recipe.images == ["a", "z"]
    for override in ("stages.2.steps=7", "stages.x.steps=7"):
        with pytest.raises(InputError, match="stages has the items 0 to 1"):
            load_recipe(BootstrapRecipe, path, [override])


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"no\.yaml: no such file"):
        load_recipe(Outer, tmp_path / "no.yaml")


def recipe_class(path: Path) -> tuple[str, Any]:
    """The command that reads a recipe, and its class, by the file's name."""
    from encoder.bootstrapping.recipe import BootstrapRecipe
    from encoder.contrastive.recipe import TrainClipRecipe
    from encoder.tasks.recipe import TaskRecipe
    from mllm.finetuning.recipe import FinetuneRecipe
    from mllm.lab.language_model import LanguageModelRecipe

    return {
        "teacher": ("train-clip", TrainClipRecipe),
        "bootstrap": ("bootstrap", BootstrapRecipe),
        "classify": ("train-task", TaskRecipe),
        "segment": ("train-task", TaskRecipe),
        "lm": ("train-lm", LanguageModelRecipe),
        "projector": ("finetune", FinetuneRecipe),
        "lora": ("finetune", FinetuneRecipe),
        "more": ("finetune", FinetuneRecipe),
        "places": ("finetune", FinetuneRecipe),
        "qlora": ("finetune", FinetuneRecipe),
        "full": ("finetune", FinetuneRecipe),
    }[path.stem.partition("-")[0]]  # teacher-112 is the first part of teacher


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "scripts" / "recipes")))
def test_recipe_of_the_project(path, monkeypatch):
    """It loads, its trainer section is one, and its first line launches it."""
    from encoder.training.arguments import check_trainer

    monkeypatch.chdir(ROOT)
    command, cls = recipe_class(path)
    recipe = load_recipe(cls, path)
    check_trainer(recipe.trainer)
    for stage in getattr(recipe, "stages", ()):
        check_trainer(stage.trainer)
    first = path.read_text().splitlines()[0]
    launch = re.match(r"# (?:deepspeed .*--module |DEEPSPEED=\S+ )?(?:mllm ([\w-]+)|(scripts/\w+\.sh)) (\S+)", first)
    assert launch, f"{path} does not open with its launch line: {first}"
    assert launch[3] == str(path.relative_to(ROOT))
    assert launch[1] == command if launch[1] else (ROOT / launch[2]).is_file()


def test_there_are_recipes():
    assert {path.parent.name for path in RECIPES} >= {"tiny", "demo", "llava15"}

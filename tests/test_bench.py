"""`mllm bench`: its arithmetic on durations made by hand, what is counted, the command. No test depends on speed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from data import InputError
from encoder import PRESETS, SparseFormerConfig, quantize
from encoder.macs import tower_macs
from encoder.presets import Preset
from encoder.quantization import Int8Linear
from mllm.cli import main
from mllm.lab.benchmarking import first_token, measure, report, startup
from mllm.lab.benchmarking.case import Case, Cost, Place, callable_of, counted, random_images, weights_of
from mllm.lab.benchmarking.encoders import Sparse, encoder_cases, training_cases
from mllm.lab.benchmarking.measure import Plan, Spread, comparisons, cpu_seconds, interleave, wall_seconds
from mllm.lab.benchmarking.official import official_arguments
from mllm.lab.benchmarking.profiling import LEAST, time_of_operations
from mllm.lab.benchmarking.report import as_markdown, section
from mllm.lab.benchmarking.resolution import mixed_sizes, resolution_cases
from tests import tiny
from tests.test_encoder import OFFICIAL, config_from_official

CPU = Place(torch.device("cpu"))
MACHINE = {"cpu": "Abacus", "cores": 3, "instructions": "beads", "threads": 1, "load": 0.0, "gpu": None}
MACHINE |= {"torch": "1", "transformers": "2", "open_clip_torch": "3"}


def row(name: str, seconds: list[float], macs: float, ours: bool = False, **changes) -> dict:
    case = Case(name, ours, "g", 5, *[lambda *_: None] * 3)
    figures = measure.row(case, 2, macs, memory=2**30, seconds=seconds, matmul=changes.pop("matmul", 1e9))
    return {**figures, **changes}


def made_report(rows: list[dict], skipped: Sequence[str] = (), clock: str = "wall") -> dict:
    settings = {"device": "cpu", "compile": False, "clock": clock, "repeats": 1}
    found = {"rows": rows, "comparisons": comparisons(rows), "skipped": list(skipped)}
    return {"bench": "encoder", "machine": MACHINE, "settings": settings} | found


# --------------------------------------------------------------------------------------------------------- arithmetic


def test_quartiles():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0]) == Spread(1.75, 2.5, 3.25)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="none"):
        Spread.of([])


def test_repeats_are_interleaved_and_the_first_do_not_count():
    calls: list[str] = []
    ticks = iter(range(100))

    def clock(run) -> float:
        run()
        return float(next(ticks))

    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    durations = interleave(runs, repeats=3, warm_up=2, seconds_of=clock)
    assert calls == ["a", "b"] * 5
    assert durations == {"a": [4.0, 6.0, 8.0], "b": [5.0, 7.0, 9.0]}


def test_clocks_run_once(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr("time.perf_counter", iter([1.0, 3.5]).__next__)
    monkeypatch.setattr("time.process_time", iter([10.0, 10.25]).__next__)
    assert wall_seconds(lambda: calls.append(1), torch.device("cpu")) == 2.5
    assert cpu_seconds(lambda: calls.append(1)) == 0.25
    assert calls == [1, 1]


def test_a_row():
    figures = row("x", [0.5, 0.25, 1.0], macs=1e8)
    assert figures["ms_per_image"] == {"low": 187.5, "median": 250.0, "high": 375.0}
    assert figures["images_per_second"] == {"low": 3.0, "median": 4.0, "high": 6.0}
    assert figures["fraction_of_matmul"] == pytest.approx(0.4)


def test_a_comparison_is_by_repeats():
    """The machine was ten times slower in the second repeat, for both; the ratio does not know of it."""
    ours, dense = row("ours", [1.0, 10.0, 1.0], macs=2e9, ours=True), row("dense", [3.0, 30.0, 4.0], macs=8e9)
    (pair,) = comparisons([ours, dense])
    assert pair["speed_ratio"] == {"low": 3.0, "median": 3.0, "high": 3.5}
    assert pair["mac_ratio"] == 4.0
    assert pair["efficiency"] == 0.75


def test_what_is_compared():
    rows = [
        row("s", [1.0], 1.0, ours=True),
        row("s", [1.0], 1.0, ours=True, batch_size=4),
        row("s", [1.0], 1.0, ours=True, dtype="bfloat16"),
        row("d", [1.0], 1.0),
        row("d", [1.0], 1.0, dtype="bfloat16"),
        row("e", [1.0], 1.0),
        row("other", [1.0], 1.0, group="h"),
        row("s, int8", [0.5], 1.0, ours=True, reference="s", cosine=0.99),
    ]
    pairs = comparisons(rows)
    assert [(p["case"], p["dtype"], p["batch_size"], p["against"], p["efficiency"]) for p in pairs] == [
        ("s", "float32", 2, "d", 1.0),
        ("s", "float32", 2, "e", 1.0),
        ("s", "bfloat16", 2, "d", 1.0),
        ("s, int8", "float32", 2, "s", None),
    ]


def test_report():
    rows = [
        row("ours|x", [1.0], 2e9, ours=True, cosine=0.98765),
        row("dense", [3.0], 8e9, tokens=None),
        row("dense", [1.0], 8e9, dtype="bfloat16", matmul=2e9),
    ]
    made = made_report(rows, ["y: too large"], clock="cpu")
    assert made == json.loads(json.dumps(made))
    found = section(made)
    assert found.tables[0].lines[1][1:] == ("float32", "2", "8.0", "-", "1500 (1500-1500)", "0.667", "533%", "1.00")
    assert found.tables[1].lines == [("ours|x", "dense", "float32", "2", "3 (3-3)", "4.00", "75%")]
    assert "Abacus, 3 cores" in found.about
    assert "CPU time" in found.about
    assert "A large matmul: 1 GMACs/s in float32, 2 GMACs/s in bfloat16." in found.about
    assert found.remarks == ["ours|x: cosine to float32's embeddings at least 0.9877", "Skipped: y: too large"]
    lines = as_markdown(found).splitlines()
    assert lines[4].startswith("| case    | dtype    | batch |")
    assert lines[5].startswith("| ------- | -------- | ----: |")
    assert lines[6].startswith("| ours\\|x | float32  |     2 |")
    assert len({len(line) for line in lines[4:9]}) == 1


# ------------------------------------------------------------------------------------------------------------ memory


def linear_case(name: str, width: int) -> Case:
    """A Linear on B rows of zeros."""

    def build(place: Place) -> nn.Module:
        return nn.Linear(width, width, device=place.device).requires_grad_(False)

    def step(module: nn.Module, batch: int, place: Place):
        given = torch.zeros(batch, width, device=place.device)
        return lambda: module(given)

    return Case(name, False, "g", None, build, step, counted(step))


def test_what_a_step_costs():
    case = linear_case("x", 10)
    skeleton = case.build(CPU.on_meta())
    assert weights_of([skeleton]) == weights_of([skeleton, skeleton]) == 4 * 110
    # the rows are made before the step, and what comes out is 7 rows of float32
    assert case.cost(skeleton, 7, CPU.on_meta()) == Cost(7 * 100, 4 * 70)


def test_what_does_not_fit_is_skipped(monkeypatch):
    monkeypatch.setattr(measure, "free_memory", lambda device: 3000)
    monkeypatch.setattr(measure, "matmul", lambda device, dtype: lambda: None)
    monkeypatch.setattr(measure, "MATMUL_SIDE", {"cpu": 10})
    monkeypatch.setattr(Plan, "seconds_of", lambda plan, device: lambda run: (run(), 0.5)[1])
    cases = [linear_case("small", 10), linear_case("large", 40), linear_case("third", 10)]
    rows, skipped = measure.measure(cases, Plan(batch_sizes=(1, 40, 80), repeats=2), CPU.device)
    names = [("small", 1), ("third", 1), ("small", 40), ("third", 40)]
    assert [(each["name"], each["batch_size"]) for each in rows] == names
    assert rows[2]["memory"] == 440 + 4 * 400
    assert rows[0]["matmul"] == 2000
    assert [line.split(":")[0] for line in skipped] == [
        "large, float32",
        "small, float32, batch 80",
        "third, float32, batch 80",
    ]
    with pytest.raises(InputError, match="nothing fits"):
        measure.measure(cases[1:2], Plan(), CPU.device)


# --------------------------------------------------------------------------------------------------- the cases


def test_encoders(tmp_path, open_clip_dir):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    sparse, dense = encoder_cases([str(sparse_dir), str(open_clip_dir)])
    assert (sparse.ours, dense.ours) == (True, False)
    assert (sparse.tokens, dense.tokens) == (tiny.TOKENS, 17)
    assert sparse.group == dense.group == "16"
    for case in (sparse, dense):
        module = case.build(CPU)
        assert case.step(module, 3, CPU)().shape == (3, 16)
        bfloat16 = Place(CPU.device, torch.bfloat16)
        assert case.step(case.build(bfloat16), 1, bfloat16)().dtype == torch.bfloat16
    # patches of 8 pixels, six blocks of width 32, the projection; attention's products with 17 tokens
    cost = dense.cost(dense.build(CPU.on_meta()), 2, CPU.on_meta())
    assert cost.macs == 2 * (16 * 3 * 64 * 32 + 6 * (17 * 12 * 32 * 32 + 2 * 17 * 17 * 32) + 32 * 16)


def test_fewer_tokens(tmp_path, open_clip_dir):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    cases = encoder_cases([str(sparse_dir), str(open_clip_dir)], int8=True, tokens=[3, tiny.TOKENS, 9])
    assert [(case.full_name.removeprefix(str(sparse_dir)), case.tokens) for case in cases[:-1]] == [
        *(("", tiny.TOKENS), (", int8", tiny.TOKENS)),
        *((", 3 tokens", 3), (", int8, 3 tokens", 3)),
        *((", 9 tokens", 9), (", int8, 9 tokens", 9)),
    ]
    for case in cases[:-1]:
        module = case.build(CPU)
        images = random_images(2, tiny.IMAGE_SIZE, CPU.device)
        assert module.model(images, num_tokens=module.num_tokens).last_hidden_state.shape[1] == case.tokens
        # the same costs as a model that has no more of them
        config = tiny.sparseformer_config(projection_dim=16, num_latent_tokens=case.tokens - 1)
        own = Sparse(config).to("meta").requires_grad_(False)
        assert case.cost(case.build(CPU.on_meta()), 1, CPU.on_meta()).macs == tower_macs(own, 32, 32)
    pairs = comparisons([measure.row(case, 1, 1.0, 1, [1.0], 1.0) for case in cases])
    assert [pair["against"] for pair in pairs if "int8" in pair["case"]] == [
        *(str(sparse_dir), f"{sparse_dir}, 3 tokens", f"{sparse_dir}, 9 tokens"),
    ]


def test_sizes_of_images(encoder_dir, clip_dir):
    square, mixed = resolution_cases([str(encoder_dir), str(clip_dir)], [32, 48])
    assert [(case.image_size, case.ours, case.tokens) for case in square] == [
        *((32, True, tiny.TOKENS), (32, False, 17)),
        *((48, True, tiny.TOKENS), (48, False, 37)),
    ]
    assert square[0].build(CPU) is square[2].build(CPU) is mixed[0].build(CPU)  # in memory once
    assert square[0].group == square[1].group != square[2].group == square[3].group
    for case in square:
        seen = case.step(case.build(CPU), 3, CPU)()
        assert seen.last_hidden_state.shape[:2] == (3, case.tokens)
    dense = square[3].cost(square[3].build(CPU.on_meta()), 2, CPU.on_meta()).macs
    assert dense == 2 * (36 * 3 * 64 * 32 + 2 * (37 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 37 * 37 * 32))


def test_mixed_sizes_waste_no_arithmetic(encoder_dir, clip_dir):
    sizes = mixed_sizes([32, 48])
    assert sizes == [(28, 37), (55, 42)]
    _, mixed = resolution_cases([str(encoder_dir), str(clip_dir)], [32, 48])
    assert [(case.ours, case.tokens) for case in mixed] == [(True, tiny.TOKENS), *[(False, tiny.TOKENS)] * 2]
    tower = mixed[0].build(CPU.on_meta())
    together, alone, padded = (case.cost(tower, 3, CPU.on_meta()).macs for case in mixed)
    each = [tower_macs(tower, *size) for size in (sizes[0], sizes[1], sizes[0])]
    assert alone == sum(each)
    # what the tokens do before they first look at an image is the same for all, and done once where all are together
    convolution = 8 * 7 * 7 * 3
    places = [
        sum(math.ceil(h / 2) * math.ceil(w / 2) for h, w in which) for which in ((*sizes, sizes[0]), [(55, 42)] * 3)
    ]
    assert padded - together == convolution * (places[1] - places[0])
    assert 0 <= alone - together < 0.1 * alone
    for case in mixed:
        case.step(case.build(CPU), 3, CPU)()


def test_training_steps(tmp_path, open_clip_dir):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    steps = {c.name.partition(", ")[2]: c for c in training_cases([str(sparse_dir), str(open_clip_dir)])}
    assert list(steps) == ["forward + backward", "as a student", "as a teacher"]
    cases = training_cases([str(sparse_dir), str(open_clip_dir)])
    assert [c.group for c in cases] == ["16", "16 bootstrapping"] * 2
    macs = []
    for case in cases:
        module = case.build(CPU)
        case.step(module, 2, CPU)()
        assert all(parameter.grad is None for parameter in module.parameters())
        macs.append(case.cost(case.build(CPU.on_meta()), 2, CPU.on_meta()).macs)
    student = cases[1].build(CPU)
    frozen = {name.split(".")[2] for name, p in student.named_parameters() if not p.requires_grad and "layers" in name}
    assert frozen == {"4"}  # of the two blocks of the cortex the later one
    assert not student.model.projection.weight.requires_grad
    assert macs[1] < macs[0]  # frozen weights need no gradients
    assert 2.5 < macs[2] / macs[3] <= 3  # a backward pass is twice a forward one; images need no gradients


def test_first_token(tmp_path, encoder_dir, clip_dir, language_model_dir):
    language_model = first_token.LanguageModel(str(language_model_dir))
    names = [str(encoder_dir), str(clip_dir)]
    sparse, dense = first_token.first_token_cases(names, language_model, prompt=6)
    assert (sparse.tokens, dense.tokens) == (tiny.TOKENS, 16)
    models = [case.build(CPU) for case in (sparse, dense)]
    lm = language_model.at(CPU)
    assert models[0].lm_head is models[1].lm_head is lm.lm_head
    assert models[0].model.language_model is models[1].model.language_model
    for case, model in zip((sparse, dense), models, strict=True):
        output = case.step(model, 2, CPU)()
        assert output.logits.shape == (2, 1, lm.config.vocab_size)
        cost = case.cost(case.build(CPU.on_meta()), 2, CPU.on_meta())
        assert cost.macs % 2 == 0
        assert cost.activations > 0
    assert len(models[1].model.vision_tower.encoder.layers) == 1  # LLaVA reads the last block but one of two
    cache = next(value for name, value in output.items() if name in ("cache", "past_key_values"))
    assert cache.get_seq_length() == 16 + 6


def test_true_sizes():
    """Of the language models: parameters as published; nothing is built."""
    counts = {}
    for name in first_token.LANGUAGE_MODELS:
        model = first_token.LanguageModel(name).at(CPU.on_meta())
        counts[name] = sum(p.numel() for p in model.parameters())
    assert counts == {"1.1B": 1_100_048_384, "7B": 6_738_415_616}
    large = first_token.tower_config("ViT-L-14-336")
    assert (large.image_size // large.patch_size) ** 2 == 576


def test_compiled_or_not(monkeypatch):
    module = nn.Linear(2, 2)
    assert callable_of(module, CPU) is module
    monkeypatch.setattr(torch, "compile", lambda given, **how: (given, how))
    assert callable_of(module, Place(CPU.device, compiled=True)) == (module, {})
    frozen = {"options": {"freezing": True}, "dynamic": False}
    assert callable_of(module, Place(CPU.device, compiled=True), frozen=True) == (module, frozen)
    graph = {"mode": "reduce-overhead", "dynamic": False}
    assert callable_of(module, Place(torch.device("cuda"), compiled=True), frozen=True) == (module, graph)
    assert random_images(2, (8, 4), CPU.device).shape == (2, 3, 8, 4)


# ----------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def small_matmul(monkeypatch):
    """A matmul that takes no time."""
    monkeypatch.setattr(measure, "MATMUL_SIDE", {"cpu": 16, "cuda": 16})


def test_the_command(tmp_path, open_clip_dir, small_matmul, capsys):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    out = tmp_path / "out.json"
    models = ["--model", str(sparse_dir), "--model", str(open_clip_dir)]
    options = ["--batch-size", "2", "1", "--repeats", "2", "--warm-up", "0", "--device", "cpu", "--threads", "1"]
    options += ["--dtype", "float32", "--dtype", "bfloat16"]
    assert main(["bench", "encoder", *models, *options, "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["threads"] == 1
    assert [(r["batch_size"], r["ours"], r["dtype"], r["tokens"]) for r in written["rows"]] == [
        (size, ours, dtype, tokens)
        for size in (2, 1)
        for ours, tokens in ((True, tiny.TOKENS), (False, 17))
        for dtype in ("float32", "bfloat16")
    ]
    assert all(len(r["seconds"]) == 2 for r in written["rows"])
    assert written["rows"][1]["memory"] < written["rows"][0]["memory"]
    assert len({r["matmul"] for r in written["rows"]}) == 4  # of each type at each batch size
    assert len(written["comparisons"]) == 4
    printed = capsys.readouterr().out
    assert printed.startswith("## mllm bench encoder\n")
    assert f"| {sparse_dir} |" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "sparse"]


def test_the_command_for_first_tokens(encoder_dir, clip_dir, language_model_dir, small_matmul, capsys):
    models = ["--model", str(encoder_dir), "--model", str(clip_dir), "--language-model", str(language_model_dir)]
    assert main(["bench", "first-token", *models, "--prompt", "4", "--repeats", "1", "--batch-size", "1"]) == 0
    assert "4 tokens of text" in capsys.readouterr().out


def test_the_command_for_sizes_and_tokens(tmp_path, encoder_dir, clip_dir, open_clip_dir, small_matmul, capsys):
    out, options = tmp_path / "out.json", ["--device", "cpu", "--json", str(tmp_path / "out.json")]
    models = ["--model", str(encoder_dir), "--model", str(clip_dir)]
    assert main(["bench", "resolution", *models, "--image-size", "32,48", *options]) == 0
    written = json.loads(out.read_text())
    assert [row["batch_size"] for row in written["rows"]] == [1, 1, 1, 1, 2, 2, 2]
    assert all(len(row["seconds"]) == 3 for row in written["rows"])
    assert [pair["against"].removeprefix(str(clip_dir)) for pair in written["comparisons"][:2]] == [
        ", 32 px",
        ", 48 px",
    ]
    assert [pair["case"] for pair in written["comparisons"][2:]] == [f"{encoder_dir}, mixed sizes together"] * 2
    assert "Mixed sizes: 28 x 37, 55 x 42 pixels" in capsys.readouterr().out
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    models = ["--model", str(sparse_dir), "--model", str(open_clip_dir)]
    assert main(["bench", "encoder", *models, "--tokens", "3,2", "--repeats", "1", *options]) == 0
    written = json.loads(out.read_text())
    assert [row["tokens"] for row in written["rows"]] == [tiny.TOKENS, 3, 2, 17]
    assert [row["line"] for row in written["rows"]] == [str(sparse_dir)] * 3 + [str(open_clip_dir)]
    assert [pair["case"].removeprefix(str(sparse_dir)) for pair in written["comparisons"]] == [
        "",
        ", 3 tokens",
        ", 2 tokens",
    ]
    assert capsys.readouterr().out.startswith("## mllm bench encoder --tokens\n")


def test_answers_in_batches(model_dir, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = [
        "--questions",
        "3",
        "--max-new-tokens",
        "1",
        "--batch-size",
        "1",
        "2",
        "--repeats",
        "2",
        "--device",
        "cpu",
    ]
    assert main(["bench", "answers", "--model", str(model_dir), *options, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["batch_size"], len(row["seconds"])) for row in rows] == [(1, 2), (2, 2)]
    assert rows[0]["speed_ratio"] == {"low": 1.0, "median": 1.0, "high": 1.0}
    one, two = (row["seconds"] for row in rows)
    assert rows[1]["speed_ratio"]["median"] == pytest.approx(sum(a / b for a, b in zip(one, two, strict=True)) / 2)
    assert rows[1]["ms_per_question"]["median"] == pytest.approx(1e3 * sum(two) / 2 / 3)
    assert "3 questions about generated images" in capsys.readouterr().out


def test_int8_beside_float(tmp_path, small_matmul, capsys):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    out = tmp_path / "out.json"
    options = ["--int8", "--repeats", "2", "--batch-size", "1", "--device", "cpu", "--json", str(out)]
    assert main(["bench", "encoder", "--model", str(sparse_dir), *options]) == 0
    written = json.loads(out.read_text())
    exact, int8 = written["rows"]
    assert (int8["name"], int8["macs"]) == (f"{exact['name']}, int8", exact["macs"])
    assert int8["memory"] < exact["memory"]
    floats, integers = Sparse(SparseFormerConfig.from_pretrained(sparse_dir)), Int8Linear(nn.Linear(30, 20))
    assert weights_of([integers]) == 20 * (30 + 4 + 4 + 8)  # weights, factors, biases, zero points
    assert weights_of([quantize(floats.model)]) < weights_of([Sparse(floats.model.config)])
    assert exact["cosine"] is None
    assert 0.99 < int8["cosine"] <= 1 + 1e-6  # which it may round to
    assert [(pair["case"], pair["against"]) for pair in written["comparisons"]] == [(int8["name"], exact["name"])]
    assert f"{int8['name']}: cosine to float32's embeddings" in capsys.readouterr().out


STAND_IN = {  # of the published package: its modules, and how they are called
    "utils": """
class CompatibleAttrDict(dict):
    def __init__(self, **values):
        super().__init__(**values)
        self.__dict__ = self
""",
    "modelling": """
from enum import Enum

import torch
from torch import nn

from .utils import CompatibleAttrDict

OP = Enum("OP", "ATTN MLP SAMPLING_M ROI_ADJ PE_INJECT")


class SparseFormer(nn.Module):
    def __init__(self, conv_dim=96, width_configs=(), repeats=(), ops_list=None, proj_dim=1000, proj_bias=True,
                 compatible_config: CompatibleAttrDict = None, **kwargs):
        super().__init__()
        assert all(op in OP for ops in ops_list for op in ops)
        assert compatible_config.ln_eps == 1e-5
        self.drop_path = [rate.item() for rate in torch.linspace(0, 0.1, sum(repeats))]  # as there: not on meta
        self.conv1 = nn.Conv2d(3, conv_dim, kernel_size=7, stride=4)
        self.proj = nn.Linear(conv_dim, proj_dim, bias=proj_bias)

    def forward(self, x, scale=1.0):
        return self.proj(self.conv1(x).mean((2, 3)))
""",
}


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "checkout" / "sparseformer" / "sparseformer"
    package.mkdir(parents=True)
    for name, text in STAND_IN.items():
        (package / f"{name}.py").write_text(text)
    return tmp_path / "checkout"


def test_official_code_beside_ours(tmp_path, checkout, small_matmul, monkeypatch, capsys):
    config = tiny.sparseformer_config(projection_dim=16)
    fields = {name: getattr(config, name) for name in ("units", "num_latent_tokens", "early_channels", "image_size")}
    monkeypatch.setitem(PRESETS, "small", Preset({**fields, "projection_dim": 16}, (0, 0, 0), (1, 1, 1)))
    out, before = tmp_path / "out.json", list(sys.path)
    options = ["--dtype", "float32", "--dtype", "bfloat16", "--repeats", "1", "--batch-size", "2", "--json", str(out)]
    command = ["bench", "encoder", "--device", "cpu", "--model", "small", "--official"]
    assert main([*command, str(checkout), *options]) == 0
    written = json.loads(out.read_text())
    rows = {(row["name"], row["dtype"]): row for row in written["rows"]}
    assert list(rows) == [(name, t) for name in ("small", "small, official code") for t in ("float32", "bfloat16")]
    official = rows["small, official code", "float32"]
    channels, places = config.early_channels, ((config.image_size - 7) // 4 + 1) ** 2
    assert official["macs"] == places * channels * 3 * 7 * 7 + channels * 16  # counted on its modules
    assert [(pair["case"], pair["against"], pair["dtype"]) for pair in written["comparisons"]] == [
        ("small", "small, official code", "float32"),
        ("small", "small, official code", "bfloat16"),
    ]
    assert sys.path == before

    modelling = checkout / "sparseformer" / "sparseformer" / "modelling.py"
    for text, message in (
        ("import no_such_package", "No module named 'no_such_package'"),
        ("from .utils import nothing", "cannot import name 'nothing'"),
        ("OP = {}", "'SAMPLING_M' is missing; give a checkout of its release"),
    ):
        modelling.write_text(text)
        capsys.readouterr()
        assert main([*command, str(checkout)]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert f"--official {checkout}: " in errors[0]
        assert message in errors[0]
    assert main(["bench", "encoder", "--model", "ViT-B-16", "--official", str(checkout)]) == 2
    assert "is timed beside a published model; add --model sparseformer" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["v1_tiny", "btsp_augreg_tiny", "btsp_clip_tiny"])
def test_arguments_of_the_official_code(case):
    """Those that its stored outputs were made with."""
    official = json.loads((OFFICIAL / f"{case}.config.json").read_text())
    assert official_arguments(config_from_official(official)) == official


def test_compiled_beside_eager(tmp_path, open_clip_dir, small_matmul, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **how: module)  # itself it takes a minute
    ours, dense = str(tiny.sparseformer(tmp_path / "sparse", projection_dim=16)), str(open_clip_dir)
    out = tmp_path / "out.json"
    options = ["--compile", "--int8", "--repeats", "1", "--batch-size", "1", "--device", "cpu", "--json", str(out)]
    assert main(["bench", "encoder", "--model", ours, "--model", dense, *options]) == 0
    pairs = [(pair["case"], pair["against"]) for pair in json.loads(out.read_text())["comparisons"]]
    assert pairs == [
        (ours, dense),
        (ours, f"{dense}, compiled"),
        (f"{ours}, int8", ours),
        (f"{ours}, compiled", dense),
        (f"{ours}, compiled", f"{dense}, compiled"),
    ]


def test_profile(tmp_path, capsys):
    sparse_dir = tiny.sparseformer(tmp_path / "sparse", projection_dim=16)
    out = tmp_path / "out.json"
    options = ["--profile", "--repeats", "2", "--batch-size", "3", "--device", "cpu", "--json", str(out)]
    assert main(["bench", "encoder", "--model", str(sparse_dir), *options]) == 0
    written = json.loads(out.read_text())
    parts = {each["part"]: each for each in written["parts"]}
    focusing = {
        f"focusing: {name}" for name in ("sample", "mixing weights", "after mixing", "pe", "attn", "mlp", "roi")
    }
    assert set(parts) == focusing | {
        *("early convolution", "transition", "cortex: attn", "cortex: mlp", "head", "rest"),
    }
    assert sum(each["time"] for each in parts.values()) == pytest.approx(1)
    assert sum(each["arithmetic"] for each in parts.values()) == pytest.approx(1)
    # of B images of 32 pixels: 16 x 16 places, 8 channels of 7 x 7 x 3; B * 5 tokens in two blocks of width 32
    convolution, mlp = 16 * 16 * 8 * 7 * 7 * 3, 5 * 2 * 2 * 4 * 32 * 32
    ratio = parts["early convolution"]["arithmetic"] / parts["cortex: mlp"]["arithmetic"]
    assert ratio == pytest.approx(convolution / mlp)
    for part, each in parts.items():
        listed = [operation["time"] for operation in written["operations"] if operation["part"] == part]
        assert sum(listed) <= each["time"] + 1e-9
        assert all(time >= LEAST for time in listed)
    seconds = time_of_operations(Sparse(tiny.sparseformer_config()).eval(), 2, repeats=1, warm_up=0)
    assert {("focusing: sample", "aten::bmm"), ("focusing: sample", "aten::grid_sampler_2d")} <= set(seconds)
    assert ("early convolution", "aten::bmm") not in seconds
    assert "| part " in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- start-up

IMPORT_LOG = """import time: self [us] | cumulative | imported package
import time:       150 |        150 |   torch.nn
import time:      2000 |       2150 | torch
a warning of a package
import time:        30 |         30 | json
"""


def test_import_times():
    assert startup.import_times(IMPORT_LOG) == pytest.approx({"torch": 2150e-6, "json": 30e-6})


def test_start_up(model_dir, tmp_path, monkeypatch, capsys):
    ran: list[list[str]] = []

    def run_once(arguments, *options):
        ran.append([*options, *arguments])
        return IMPORT_LOG if options else ""

    monkeypatch.setattr(startup, "run_once", run_once)
    out = tmp_path / "out.json"
    options = ["--repeats", "2", "--warm-up", "0", "--json", str(out)]
    assert main(["bench", "start-up", "--model", str(model_dir), *options]) == 0
    chat = ["chat", "--model", str(model_dir), "--device", "cpu"]
    timed = ["-X", "importtime"]
    assert ran == [["--help"], chat, ["--help"], chat, [*timed, "--help"], [*timed, *chat]]
    rows = json.loads(out.read_text())["rows"]
    assert [len(row["seconds"]) for row in rows] == [2, 2]
    assert rows[0]["imports"] == pytest.approx({"torch": 2150e-6, "json": 30e-6})
    printed = capsys.readouterr().out.splitlines()
    assert "| mllm --help | torch | 2 |" in [" ".join(line.split()) for line in printed]


def test_the_start_of_a_process():
    stderr = startup.run_once(["--help"], "-X", "importtime")
    assert startup.import_times(stderr)["mllm"] > 0
    assert startup.child_seconds(lambda: startup.run_once(["--help"]), "cpu") > 0
    with pytest.raises(InputError, match=r"mllm chat --prompt x: failed: .*--prompt without an image"):
        startup.run_once(["chat", "--prompt", "x"])


# -------------------------------------------------------------------------------------------------------------- page


def test_page(tmp_path, capsys):
    reports = [made_report([row("ours", [1.0], 2e9, ours=True), row("dense", [3.0], 8e9)], skipped=["x: too large"])]
    settings = {"clock": "wall", "repeats": 1}
    reports.append({"bench": "start-up", "machine": MACHINE, "settings": settings, "rows": []})
    files = []
    for number, content in enumerate(reports):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    out = tmp_path / "page.md"
    assert report.main([str(out), *map(str, files)]) == 0
    text = out.read_text()
    assert text.startswith("# Performance\n")
    assert "## mllm bench encoder" in text
    assert "## mllm bench start-up" in text
    assert "Skipped: x: too large" in text
    assert json.loads((tmp_path / "page.json").read_text()) == reports
    files[0].write_text("[]")
    assert report.main([str(out), str(files[0])]) == 2
    assert "holds no report; name what `mllm bench --json` wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder", "--model", "ViT-Q-99"], "--model ViT-Q-99: neither a directory, nor one of open_clip's"),
        (["encoder", "--model", "{lm}"], "holds a 'llama', which takes no images"),
        (["encoder", "--model", "{clip}"], "holds a 'clip_vision_model'; give a SparseFormer or an open_clip tower"),
        (["encoder", "--model", "{empty}"], "has neither a config.json nor an open_clip_config.json"),
        (["encoder", "--batch-size", "4", "0"], "argument --batch-size: must be at least 1"),
        (["encoder", "--repeats", "0"], "argument --repeats: must be at least 1"),
        (["encoder", "--warm-up", "-1"], "argument --warm-up: must be at least 0"),
        (["encoder", "--threads", "0"], "argument --threads: must be at least 1"),
        (["encoder", "--model", "a", "--model", "a"], "--model: one is given twice"),
        (["encoder", "--device", "abacus"], "--device abacus: "),
        (["encoder", "--device", "meta"], "--device meta: "),
        (["encoder", "--json", "no/such/place.json"], "--json no/such/place.json: no such directory"),
        (["encoder", "--plot", "{empty}/x.bmp"], "the name must end with one of .png, .svg, .pdf"),
        (["train", "--int8"], "--int8: belongs to `mllm bench encoder`"),
        (["start-up", "--batch-size", "8"], "--batch-size: belongs to `mllm bench encoder`"),
        (["start-up", "--model", "a", "--model", "b"], "--model: `mllm bench start-up` takes one"),
        (["start-up", "--model", "{clip}"], "holds a 'clip', which answers no questions"),
        (["answers", "--model", "{empty}"], "{empty}"),
        (["answers", "--dtype", "float32", "--dtype", "bfloat16"], "--dtype: `mllm bench answers` takes one"),
        (["answers", "--compile"], "--compile: belongs to `mllm bench encoder`"),
        (["encoder", "--int8", "--dtype", "bfloat16"], "--int8: is compared with float32; add --dtype float32"),
        (["encoder", "--dtype", "bfloat16", "--dtype", "bfloat16"], "--dtype: one is given twice"),
        (["train", "--official", "."], "--official: belongs to `mllm bench encoder`"),
        (["encoder", "--official", "{empty}"], "{empty}: holds no sparseformer/modelling.py; give a checkout of"),
        (["encoder", "--profile", "--compile"], "--profile: without --int8, --official, --compile, --plot, --tokens"),
        (
            ["encoder", "--profile", "--batch-size", "1", "2"],
            "--profile: is of one --model in one --dtype at one",
        ),
        (["encoder", "--profile", "--model", "ViT-B-16"], "--profile is of a SparseFormer, a preset or a directory"),
        (["train", "--tokens", "8"], "--tokens: belongs to `mllm bench encoder`"),
        (["encoder", "--tokens", "8,8"], "--tokens: one is given twice"),
        (["encoder", "--tokens", "8", "--model", "ViT-B-16"], "--tokens: is of a SparseFormer; add --model sparse"),
        (["encoder", "--tokens", "8", "--model", "sparseformer_v1_tiny"], "--tokens 8: sparseformer_v1_tiny: 8 latent"),
        (["encoder", "--tokens", "1", "--model", "{sparse}"], "num_tokens=1: choose at least 2"),
        (["encoder", "--image-size", "224"], "--image-size: belongs to `mllm bench resolution`"),
        (["resolution", "--compile"], "--compile: belongs to `mllm bench encoder`"),
        (["resolution", "--image-size", "99999"], "--image-size=99999: choose at least 1 and at most 16,384"),
        (["resolution", "--image-size", "7", "--model", "{clip}"], "{clip}: takes no images of 7 x 7 pixels: "),
        (["train", "--language-model", "7B"], "--language-model: belongs to `mllm bench first-token`"),
        (["train", "--prompt", "7"], "--prompt: belongs to `mllm bench first-token`"),
        (["first-token", "--model", "ViT-Q-99"], "--model ViT-Q-99: no such directory, and none of ViT-B-16"),
        (["first-token", "--language-model", "8B"], "--language-model 8B: no directory, and no shape"),
        (["first-token", "--language-model", "{clip}"], "which is no causal language model"),
        (["first-token", "--prompt", "0"], "argument --prompt: must be at least 1"),
    ],
)
def test_refused(arguments, message, tmp_path, encoder_dir, clip_dir, language_model_dir, capsys):
    places = {"lm": language_model_dir, "clip": clip_dir, "sparse": encoder_dir, "empty": tmp_path}
    try:
        code = main(["bench", *(text.format(**places) for text in arguments)])
    except SystemExit as left:  # argparse
        code = left.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message.format(**places) in errors[0]
    assert not list(tmp_path.iterdir())


def test_a_plot_needs_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "encoder", "--plot", str(tmp_path / "x.png")]) == 2
    assert "pip install 'sparseformer-mllm[plot]'" in capsys.readouterr().err


def test_the_picture_of_a_page(tmp_path, capsys, monkeypatch):
    """A panel of what sizes cost, one of what tokens cost; each encoder is one line."""
    rows = [row("ours", [1.0], 2e9, ours=True, image_size=side, tokens=8) for side in (224, 448)]
    reports = [{**made_report([*rows, row("mixed", [1.0], 1e9)]), "bench": "resolution", "mixed_sizes": [[3, 4]]}]
    rows = [row("ours", [float(n)], 2e9, ours=True, tokens=n) for n in (16, 4)] + [row("dense", [3.0], 8e9)]
    reports.append({**made_report(rows), "bench": "tokens"})
    files = []
    for content in reports:
        files.append(tmp_path / f"{content['bench']}.json")
        files[-1].write_text(json.dumps(content))
    out = tmp_path / "page.md"
    assert report.main([str(out), *map(str, files)]) == 0
    text, picture = out.read_text(), (tmp_path / "page.svg").read_text()
    assert "](page.svg)" in text
    assert "## mllm bench encoder --tokens" in text
    assert "Mixed sizes: 3 x 4 pixels" in text
    for words, times in (("ours, float32", 2), ("dense, float32", 1), ("mixed, float32", 0), (">224<", 1), (">16<", 1)):
        assert picture.count(words) == times
    assert report.main([str(out), *map(str, files)]) == 0
    assert (tmp_path / "page.svg").read_text() == picture
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(out), *map(str, files)]) == 2
    assert "error: OUT.svg: matplotlib is missing" in capsys.readouterr().err


def test_plot(tmp_path):
    rows = [row("ours", [1.0, 2.0], 2e9, ours=True), row("ours", [1.0, 3.0], 2e9, ours=True, batch_size=4)]
    report.plot([made_report(rows)], tmp_path / "x.svg")
    assert "ours" in (tmp_path / "x.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]


def test_a_compiler_that_does_not_work():
    from torch._dynamo.exc import TorchDynamoException

    def run():
        raise TorchDynamoException("no compiler\nand much more")

    with pytest.raises(InputError, match=r"--compile: torch.compile does not work here: no compiler$"):
        measure._first(run)

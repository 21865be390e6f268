"""`mllm info`: counts against formulas worked out by hand, memory against its table, the command."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, LlamaConfig, MixtralConfig

from data import InputError
from encoder import PRESETS, SparseFormerConfig
from encoder.macs import Macs, count_macs
from encoder.macs import tower_macs as macs_of_tower
from mllm.cli import main
from mllm.costs.memory import BUCKET, GIB, Memory, PeakBytes, Step, divide, training_memory
from mllm.costs.meta_model import config_of_model, config_of_parts, dummy_images, macs_of_parts, meta_model
from tests import tiny

LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def tower_macs(config, size: int) -> Macs:
    with torch.device("meta"):
        tower = AutoModel.from_config(config).eval().requires_grad_(False)
    return count_macs(lambda: tower(torch.empty(1, 3, size, size, device="meta")))


# ---------------------------------------------------------------------------------------------- multiply-accumulates


@pytest.mark.parametrize(("size", "side", "projections"), [(224, 16, 77.8), (336, 24, 174.6)])
def test_dense_tower(size, side, projections):
    """ViT-L/14: 77.8 and 174.6 GMACs in patches, projections and perceptrons; attention's products come on top."""
    tokens, width, blocks = side * side + 1, 1024, 24
    linear = side * side * 3 * 14 * 14 * width + blocks * tokens * 12 * width * width
    products = blocks * 2 * tokens * tokens * width
    assert tower_macs(CLIPVisionConfig(**LARGE, image_size=size), size) == Macs(linear + products, products)
    assert round(linear / 1e9, 1) == projections


LARGE_SPARSEFORMER = "sparseformer_btsp_openai_clip_large"


def sparseformer_macs(latent: int, height: int, width: int, blocks: int = 16, projection: int = 768) -> Macs:
    """Of the published L/64 with so many latent tokens and a class token, by the operations of the paper."""
    points, channels, hidden, out_points = 16, 64, 128, 32

    def sample(width: int) -> int:
        offsets = width * 2 * points
        generator = width * hidden + hidden * (channels**2 + points * out_points)
        mixing = points * channels**2 + out_points * points * channels
        return offsets + generator + mixing + out_points * channels * width

    def block(width: int) -> int:
        return 12 * width * width

    focus, full = 512, 1024
    once = sample(focus) + focus**2 + block(focus) + focus**2 + 4 * focus  # SAMPLE, PE, ATTN and MLP, ROI
    linear = math.ceil(height / 2) * math.ceil(width / 2) * 7 * 7 * 3 * channels  # early convolution
    linear += latent * (4 * once + focus * full + sample(full) + full**2)
    linear += (latent + 1) * blocks * block(full) + full * projection
    products = 4 * 2 * latent**2 * focus + blocks * 2 * (latent + 1) ** 2 * full
    return Macs(linear + products, products)


def test_published_sparseformer():
    """14.8 GMACs; at 1024 pixels, of which there are 21 times as many, 17.2, and with 8 tokens 1.9."""
    config = SparseFormerConfig(**PRESETS[LARGE_SPARSEFORMER].config)
    assert tower_macs(config, 224) == sparseformer_macs(63, 224, 224)
    with torch.device("meta"):
        tower = AutoModel.from_config(config).eval().requires_grad_(False)
    for height, width, latent in ((1024, 1024, 63), (331, 1023, 63), (224, 224, 7), (517, 100, 100)):
        images = torch.empty(1, 3, height, width, device="meta")
        expected = sparseformer_macs(latent, height, width)
        assert count_macs(lambda given=images, n=latent + 1: tower(given, num_tokens=n)) == expected
        if latent == 63:
            assert macs_of_tower(tower, height, width) == expected.total
    rounded = [
        round(sparseformer_macs(*each).total / 1e9, 1) for each in ((63, 224, 224), (63, 1024, 1024), (7, 224, 224))
    ]
    assert rounded == [14.8, 17.2, 1.9]


@pytest.mark.parametrize(("size", "tokens"), [(224, 64), (1024, 64), (333, 16), (672, 2)])
def test_sizes_and_tokens_of_a_published_sparseformer(size, tokens, language_model_dir, capsys):
    """In front of a language model it ends with the last block but one."""
    parts = ["--encoder", LARGE_SPARSEFORMER, "--language-model", str(language_model_dir)]
    report = info(capsys, *parts, "--image-size", str(size), "--tokens", str(tokens))
    assert Macs(**report["macs"]["encoder"]) == sparseformer_macs(tokens - 1, size, size, blocks=15, projection=0)
    assert (report["image"], report["visual_tokens"]) == ([size, size], tokens)
    assert report["macs"]["projector"]["total"] == tokens * (1024 * 32 + 32 * 32)


def test_tokens_that_a_model_cannot_have(language_model_dir, capsys):
    for name, tokens, message in (
        (LARGE_SPARSEFORMER, 65, "--tokens=65: choose at least 2 and at most 64"),
        ("sparseformer_v1_tiny", 8, "--tokens 8: images of this model always have the same number of tokens"),
    ):
        parts = ["--encoder", name, "--language-model", str(language_model_dir)]
        assert main(["info", *parts, "--tokens", str(tokens)]) == 2
        assert message in capsys.readouterr().err


def test_projector_and_language_model(encoder_dir, language_model_dir):
    config = config_of_parts(str(encoder_dir), str(language_model_dir))
    macs = macs_of_parts(meta_model(config), dummy_images(config, 1), prompt=40)
    assert macs["projector"] == Macs(tiny.TOKENS * (32 * 32 + 32 * 32), 0)
    # width 32, 2 layers, 4 heads of which 2 for keys and values, perceptrons of 64; the head at the last token only
    linear = 40 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64) + 32 * config.text_config.vocab_size
    products = 2 * 2 * 40 * 40 * 32
    assert macs["language model"] == Macs(linear + products, products)


def test_resamplers_attention_is_counted(clip_dir, language_model_dir):
    options = {"projector": "resampler", "projector_options": {"queries": 3, "layers": 1}}
    config = config_of_parts(str(clip_dir), str(language_model_dir), **options)
    macs = macs_of_parts(meta_model(config), dummy_images(config, 1), prompt=8)["projector"]
    assert macs.attention == 2 * 3 * (17 + 3) * 32
    linear = 17 * 32 * 32 + 3 * 2 * 32 * 32 + 20 * 2 * 32 * 32 + 3 * 8 * 32 * 32 + 3 * 32 * 32
    assert macs.total == linear + macs.attention


# ------------------------------------------------------------------------------------------------------------- memory


def test_greatest_number_of_bytes_alive():
    given = torch.empty(1000, device="meta")
    with PeakBytes([given]) as peak:
        first = given * 2
        second = first.view(10, 100) + given.view(10, 100)  # views cost nothing
        assert (peak.live, peak.peak) == (8000, 8000)
        del first
        assert peak.live == 4000
        third = second.to(torch.bfloat16)
        assert (peak.live, peak.peak) == (6000, 8000)
        del second, third
    assert peak.live == 0


def test_what_autograd_keeps():
    """Of Linear, GELU, Linear and a sum: both Linears' and the GELU's inputs, until the gradients have passed them."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    given = torch.empty(100, 64, device="meta")
    with PeakBytes([*net.parameters(), given]) as peak:
        loss = net(given).sum()
        assert peak.live == 4 * (2 * 100 * 256 + 1)
        loss.backward()
        del loss
    assert peak.live == sum(p.grad.nbytes for p in net.parameters())


def test_zero_divides():
    def row(zero: int) -> tuple[int, ...]:
        memory = divide(weight=2, everything=1000, trained=200, activations=7, gpus=4, zero=zero)
        assert memory.activations == 7
        return memory.weights, memory.gradients, memory.optimizer, memory.buffers

    assert row(0) == (2000, 400, 2400, 0)
    assert row(1) == (2000, 400, 600, 4 * BUCKET)
    assert row(2) == (2000, 100, 600, 4 * BUCKET)
    assert row(3) == (500, 100, 600, 2 * (BUCKET + 1000))
    assert divide(4, 1000, 200, 0, 1, 0).optimizer == 8 * 200  # float32 needs no copy


def test_smallest_gpu():
    assert Memory(weights=13 * GIB, activations=0).gpu == 16  # 14 with the context; a tenth more still fits
    assert Memory(weights=14 * GIB, activations=0).gpu == 24
    assert Memory(weights=200 * GIB, activations=0).gpu is None


def test_training_step(encoder_dir, language_model_dir):
    config = config_of_parts(str(encoder_dir), str(language_model_dir))
    model = meta_model(config)
    projector = 2 * (32 * 32 + 32)
    language_model = sum(p.numel() for p in [*model.model.language_model.parameters(), model.lm_head.weight])

    def memory(stage: str, **changes) -> Memory:
        step = Step(**{"batch": 2, "length": 64, "checkpointing": False, "gpus": 1, **changes})
        return training_memory(lambda: meta_model(config), stage, step, dummy_images(config, step.batch * step.images))[
            0
        ]

    stages = {stage: memory(stage) for stage in ("projector", "lora", "full")}
    assert stages["projector"].gradients == 2 * projector
    assert stages["full"].gradients == 2 * (projector + language_model)
    assert stages["projector"].activations < stages["lora"].activations
    assert stages["full"].weights == 2 * sum(p.numel() for p in model.parameters())
    assert stages["lora"].weights > stages["full"].weights
    # a frozen encoder keeps nothing, so twice the samples are twice the bytes, and checkpointing saves some
    assert memory("full", batch=4).activations == pytest.approx(2 * stages["full"].activations, rel=0.2)
    assert memory("full", checkpointing=True).activations < stages["full"].activations
    with pytest.raises(InputError, match="length=4: the images alone have 5 tokens"):
        memory("full", length=4)


def test_checkpointing_keeps_the_inputs_of_blocks(language_model_dir, encoder_dir):
    """Each further block costs its input, B·T·D numbers of two bytes, and nothing else."""
    peaks = []
    for layers in (4, 8):
        config = config_of_parts(str(encoder_dir), str(language_model_dir))
        config.text_config.num_hidden_layers = layers
        step = Step(batch=2, length=128, gpus=1)
        pixels = dummy_images(config, 2)
        peaks.append(
            training_memory(lambda config=config: meta_model(config), "projector", step, pixels)[0].activations
        )
    assert peaks[1] - peaks[0] == 4 * 2 * 128 * 32 * 2


def test_tied_weights_count_once(encoder_dir, bpe_language_model_dir):
    config = config_of_parts(str(encoder_dir), str(bpe_language_model_dir))
    model = meta_model(config)
    assert model.lm_head.weight is model.get_input_embeddings().weight


# ------------------------------------------------------------------------------------------------------------ command


def info(capsys, *arguments: str) -> dict:
    assert main(["info", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_of_a_model_directory(model_dir, capsys):
    report = info(capsys, str(model_dir), "--batch-size", "2", "--gpus", "2")
    config = AutoConfig.from_pretrained(model_dir)
    assert report["visual_tokens"] == config.image_seq_length == tiny.TOKENS
    assert report["prompt_tokens"] == tiny.TOKENS + 64
    assert report["step"]["length"] == 512
    assert report["image"] == [32, 32]
    assert {(row["stage"], row["zero"]) for row in report["training"]} == {
        (stage, zero) for stage in ("projector", "lora", "full") for zero in range(4)
    }
    # keys and values of 2 layers and 2 heads of 8, for prompt and answer, in two bytes
    assert report["inference"]["cache"] == 2 * 2 * 2 * 8 * (tiny.TOKENS + 64 + 128) * 2
    assert main(["info", str(model_dir)]) == 0
    printed = capsys.readouterr().out
    for words in ("becomes 5 tokens", "mlp2x_gelu", "training, lora", "smallest GPU", "16 GB"):
        assert words in printed


def test_seven_billion_parameters_take_no_memory(tmp_path, capsys):
    """LLaVA-1.5's language model behind the published SparseFormer and a resampler; only a config.json is there."""
    LlamaConfig(hidden_size=4096, intermediate_size=11008, vocab_size=32000).save_pretrained(tmp_path)
    name = "sparseformer_btsp_openai_clip_large"
    parts = ["--encoder", name, "--language-model", str(tmp_path)]
    resampler = ["--projector", "resampler", "--projector-option", "queries=16"]
    report = info(capsys, *parts, *resampler, "--images", "2")
    assert report["parameters"]["language model"] + report["parameters"]["output head"] == 6_738_415_616
    assert report["visual_tokens"] == report["projector"]["queries"] == 16
    assert report["prompt_tokens"] == 2 * 16 + 64
    assert report["macs"]["language model"]["total"] / 96 == pytest.approx(6.5e9, rel=0.02)
    rows = {(row["stage"], row["zero"]): row for row in report["training"]}
    assert rows["full", 0]["gpu_gib"] > 80  # 16 bytes for each of 7 billion parameters
    assert rows["full", 3]["gpu_gib"] <= 80
    assert rows["projector", 0]["weights"] == pytest.approx(13.5e9, rel=0.1)


def test_of_a_recipe(encoder_dir, language_model_dir, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"stage: lora\nencoder: {encoder_dir}\nlanguage_model: {language_model_dir}\noutput: x\ndata: [x]\n"
        "max_length: 96\nlora: {rank: 3}\ntrainer: {per_device_train_batch_size: 3, gradient_checkpointing: false}\n"
    )
    report = info(capsys, str(path), "projector=roi_mlp", "projector_options.frequencies=2")
    assert report["projector"] == {"name": "roi_mlp", "frequencies": 2}
    step = report["step"]
    assert (step["batch"], step["length"], step["checkpointing"], step["lora"]["rank"]) == (3, 96, False, 3)
    assert report["dtype"] == "float32"


def test_hours_of_a_training(encoder_dir, language_model_dir, capsys):
    """Gradients of the language model's weights cost what its layers cost; so does computing its blocks again."""
    length, width, blocks = 48, 32, 2
    parts = ["--encoder", str(encoder_dir), "--language-model", str(language_model_dir)]
    training = ["--samples", "1000", "--mean-length", str(length), "--tflops", "0.5", "--gpus", "2", "--lora-rank", "1"]
    rows = {}
    for name, more in (("recomputed", []), ("kept", ["--no-checkpointing"])):
        time = info(capsys, *parts, *training, *more)["time"]
        rows[name] = {row["stage"]: row["macs"] for row in time["stages"]}
        for row in time["stages"]:
            assert row["hours"] == pytest.approx(2 * row["macs"] * 1000 / (2 * 0.5e12) / 3600)
    language_model = meta_model(config_of_parts(str(encoder_dir), str(language_model_dir))).model.language_model
    layers = sum(each.weight.numel() for each in language_model.modules() if isinstance(each, nn.Linear))
    head = width * language_model.config.vocab_size
    assert rows["kept"]["full"] - rows["kept"]["projector"] == length * (layers + head)
    attention = blocks * 2 * length**2 * width
    recomputed = rows["recomputed"]["projector"] - rows["kept"]["projector"]
    assert recomputed == pytest.approx(length * layers + attention, rel=0.02)
    assert rows["kept"]["projector"] < rows["kept"]["lora"] < rows["kept"]["full"]
    assert main(["info", *parts, *training]) == 0
    assert "hours on 2 GPUs for 1,000 samples" in capsys.readouterr().out
    assert main(["info", *parts, "--tflops", "400"]) == 2
    assert "are for the hours of a training; give its --samples too" in capsys.readouterr().err


def test_experts_are_refused(encoder_dir, tmp_path, capsys):
    """Which expert sees a token depends on numbers, and there are none."""
    MixtralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    ).save_pretrained(tmp_path)
    assert main(["info", "--encoder", str(encoder_dir), "--language-model", str(tmp_path)]) == 2
    assert "a 'mixtral' is a mixture of experts" in capsys.readouterr().err


def test_class_token_left_out(clip_dir, language_model_dir, capsys):
    parts = ["--encoder", str(clip_dir), "--language-model", str(language_model_dir)]
    assert info(capsys, *parts, "--projector", "pixel_shuffle", "--drop-class-token")["visual_tokens"] == 4


def test_an_adapter_is_its_base(model_dir, tmp_path):
    import os

    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": os.path.relpath(model_dir, tmp_path)})
    )
    assert config_of_model(tmp_path).projector == "mlp2x_gelu"

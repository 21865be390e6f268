"""Text towers of transformers' CLIP and SigLIP: read, kept by the student, scored."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path

import open_clip
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from encoder import SparseFormerVisionModel, load_clip, save_clip
from encoder.bootstrapping import StudentOptions, build_student
from encoder.errors import WeightsError
from encoder.teachers import TeacherError, load_teacher
from mllm.cli import main
from tests import recipes, tiny

TEXTS = ["a cat", "two small blue triangles on a green background", "dog", "left of the square"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {**TOWER, "image_size": tiny.IMAGE_SIZE, "patch_size": 8}
LENGTH = 20  # of a text in tokens, to which the longest one is cut


def clip(directory: Path) -> None:
    """Letters are its tokens; like OpenAI's, it pads with what ends a text."""
    letters = [letter + end for end in ("", "</w>") for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = {word: number for number, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    transformers.CLIPTokenizer(vocab=words, merges=[]).save_pretrained(directory)
    text = {**TOWER, "hidden_size": 16, "vocab_size": len(words), "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24))
    save(model, directory)
    size = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    transformers.CLIPImageProcessor(size={"shortest_edge": tiny.IMAGE_SIZE}, crop_size=size).save_pretrained(directory)


def siglip(directory: Path) -> None:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4),
        model_writer=trained,
        vocab_size=64,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spiece.model").write_bytes(trained.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(directory / "spiece.model"), model_max_length=LENGTH)
    tokenizer.save_pretrained(directory)
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    save(transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text)), directory)
    size = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    transformers.SiglipImageProcessor(size=size).save_pretrained(directory)


def save(model: torch.nn.Module, directory: Path) -> None:
    torch.manual_seed(0)
    with torch.no_grad():  # large enough that every weight makes a difference
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.5)
    model.save_pretrained(directory)


@pytest.fixture(scope="module", params=[clip, siglip], ids=["clip", "siglip"])
def whole_dir(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / request.param.__name__
    request.param(directory)
    return directory


@pytest.fixture
def copied(whole_dir, tmp_path) -> Path:
    """One to write into."""
    return Path(shutil.copytree(whole_dir, tmp_path / "copy"))


def whole_model(directory: Path) -> torch.nn.Module:
    kind = json.loads((directory / "config.json").read_text())["architectures"][0]
    return (
        {"CLIPModel": transformers.CLIPModel, "SiglipModel": transformers.SiglipModel}[kind]
        .from_pretrained(directory)
        .eval()
    )


@torch.no_grad()
def text_features(directory: Path) -> torch.Tensor:
    """As transformers' documentation says: CLIP with a mask of padding, SigLIP padded to the full and without."""
    model = whole_model(directory)
    padding = {"padding": True} if isinstance(model, transformers.CLIPModel) else {"padding": "max_length"}
    given = transformers.AutoTokenizer.from_pretrained(directory)(
        TEXTS, **padding, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    names = ("input_ids", "attention_mask") if isinstance(model, transformers.CLIPModel) else ("input_ids",)
    return model.get_text_features(**{name: given[name] for name in names}).pooler_output


@torch.no_grad()
def test_a_student_keeps_the_text_side(whole_dir, tmp_path):
    loaded = load_teacher(f"transformers:{whole_dir}")
    text, model, expected = loaded.text, whole_model(whole_dir), text_features(whole_dir)
    assert expected.std(dim=0).min() > 0.01  # texts differ
    pixels = torch.randn(2, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    seen = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(text.clip.encode_image(pixels), seen, rtol=0, atol=1e-6)

    options = StudentOptions(num_tokens=5, early_channels=8, mixing_hidden_size=8)
    student = build_student(loaded.teacher, options).eval()
    directory = tmp_path / "student"
    save_clip(directory, text.clip, student, loaded.teacher.image_processor, text.model_config, text.tokenizer)
    kept, _, tokenizer = load_clip(directory)
    for side, tokenize in ((text.clip, text.tokenizer), (kept, tokenizer)):
        assert tokenize(TEXTS).shape == (4, LENGTH)
        torch.testing.assert_close(side.encode_text(tokenize(TEXTS)), expected, rtol=0, atol=1e-6)
        assert side.logit_scale == 2.5
        assert side.logit_scale.shape == ()
    bias = getattr(model, "logit_bias", None)
    assert (kept.logit_bias is None) == (bias is None)
    if bias is not None:
        assert kept.logit_bias == bias.item()
    assert isinstance(kept.visual.model, SparseFormerVisionModel)
    images, texts = kept.get_logits(pixels, tokenizer(TEXTS))
    assert images.shape == (2, 4)
    assert torch.equal(images, texts.T)
    weights = open_clip.build_zero_shot_classifier(kept, tokenizer, ["cat", "dog"], ["a {}"])
    normed = torch.nn.functional.normalize(kept.encode_text(tokenizer(["a cat", "a dog"])), dim=-1)
    torch.testing.assert_close(weights, normed.T)


def with_gemmas_tokenizer(directory: Path) -> None:
    """SigLIP 2 in the place of SigLIP: the same kind of model, a tokenizer that keeps case and punctuation."""
    for file in (*directory.glob("tokenizer*"), directory / "spiece.model"):
        file.unlink()
    letters = "abcdogtACT!._? "
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=LENGTH
    ).save_pretrained(directory)


def test_siglip_2_reads_texts_as_it_was_trained_to(tmp_path):
    directory = tmp_path / "siglip2"
    siglip(directory)
    with_gemmas_tokenizer(directory)
    loaded = load_teacher(str(directory))
    text, theirs = loaded.text, transformers.AutoTokenizer.from_pretrained(directory)
    plain = theirs(["a cat"], padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
    assert theirs("A Cat.")["input_ids"] != theirs("a cat")["input_ids"]
    student = build_student(loaded.teacher, StudentOptions(num_tokens=5, early_channels=8, mixing_hidden_size=8))
    save_clip(tmp_path / "s", text.clip, student, loaded.teacher.image_processor, text.model_config, text.tokenizer)
    for tokenize in (text.tokenizer, load_clip(tmp_path / "s")[2]):
        for written in ("a cat", "A Cat.", " a  cat!", "a_cat", "A CAT?"):
            assert tokenize(written).equal(plain), written
        assert tokenize("a cat", context_length=5).shape == (1, 5)


def test_clips_texts_keep_their_punctuation(tmp_path):
    clip(tmp_path)
    tokenize = load_teacher(str(tmp_path)).text.tokenizer
    assert tokenize("A CAT").equal(tokenize("a cat")), "its own tokenizer sees to that"
    assert not tokenize("a.cat").equal(tokenize("acat"))


def test_bootstrapped_and_scored(whole_dir, tmp_path, capsys):
    stages = [{"name": "a", "steps": 1, "learning_rates": {"focusing": 1e-3}}]
    recipe = recipes.bootstrap(tmp_path, whole_dir, stages=stages, zero_shot=["synthetic:test:4"], held_out_images=2)
    assert main(["bootstrap", str(recipe)]) == 0
    assert "zero-shot accuracy on synthetic:test:4:" in capsys.readouterr().out
    report = tmp_path / "out.json"
    models = ["--model", str(whole_dir), "--model", str(tmp_path / "student"), "--workers", "0"]
    for command, source in (("zeroshot", "synthetic:test:40:size=32"), ("retrieve", "synthetic:test:6:size=32")):
        assert main([command, source, *models, "--json", str(report)]) == 0
        teacher, student = json.loads(report.read_text())["models"]
        assert (teacher["tokens"], student["tokens"]) == (16 if whole_dir.name == "siglip" else 17, 5)
        assert teacher["gmacs"] > 0


def test_without_a_tokenizer_the_text_side_stays_behind(copied, caplog):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with caplog.at_level(logging.WARNING):
        loaded = load_teacher(str(copied))
    assert loaded.text is None
    assert loaded.teacher.num_tokens in (16, 17)
    assert f"{copied} has no tokenizer_config.json, so its text tower is left out" in caplog.text


def test_what_does_not_fit_is_refused(copied):
    vocabulary = copied / ("tokenizer.json" if (copied / "tokenizer.json").is_file() else "spiece.model")
    words = vocabulary.read_bytes()
    vocabulary.unlink()
    with pytest.raises(TeacherError, match="cannot be loaded") as error:
        load_teacher(str(copied))
    assert "\n" not in str(error.value)
    vocabulary.write_bytes(words)

    file = copied / "model.safetensors"
    weights = load_file(file)
    name = "text_model.final_layer_norm.weight"
    save_file({key: weights[key] for key in weights if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=name):
        load_teacher(str(copied))


def test_a_students_text_side_is_loaded_strictly(whole_dir, tmp_path):
    loaded = load_teacher(str(whole_dir))
    text, directory = loaded.text, tmp_path / "student"
    student = build_student(loaded.teacher, StudentOptions(num_tokens=5, early_channels=8, mixing_hidden_size=8))
    with pytest.raises(ValueError, match="pass tokenizer"):
        save_clip(directory, text.clip, student, loaded.teacher.image_processor, text.model_config)
    save_clip(directory, text.clip, student, loaded.teacher.image_processor, text.model_config, text.tokenizer)
    weights, config = load_file(directory / "open_clip_text.safetensors"), directory / "open_clip_config.json"
    broken = {name: weight for name, weight in weights.items() if name != "logit_scale"}
    save_file(broken | {"surplus": torch.ones(1)}, directory / "open_clip_text.safetensors")
    with pytest.raises(WeightsError, match="missing: logit_scale; unexpected: surplus"):
        load_clip(directory)
    save_file(weights, directory / "open_clip_text.safetensors")
    content = config.read_text()
    config.write_text(content.replace("_text_model", "_other_model"))
    with pytest.raises(WeightsError, match=r"'\w+_other_model'"):
        load_clip(directory)
    config.write_text(content)
    (directory / "tokenizer_config.json").unlink()
    for file in (*directory.glob("tokenizer.json"), *directory.glob("spiece.model")):
        file.unlink()
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        load_clip(directory)


def test_open_clip_can_lock_and_checkpoint_it(whole_dir):
    text = load_teacher(str(whole_dir)).text
    ids, gradients = text.tokenizer(TEXTS), []
    text.clip.text.train()
    for enable in (False, True):
        text.clip.text.set_grad_checkpointing(enable)
        text.clip.zero_grad()
        text.clip.encode_text(ids).square().sum().backward()
        gradients.append(text.clip.text.model.embeddings.token_embedding.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="locked as a whole"):
        text.clip.lock_text_tower(unlocked_layers=1)
    text.clip.lock_text_tower()
    assert not any(parameter.requires_grad for parameter in text.clip.text.parameters())

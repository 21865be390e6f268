"""`mllm train-clip`: through the real main, interrupted and resumed, loaded by open_clip; zero-shot by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file

from data import BadSamples, InputError
from data.synthetic.captions import CLASS_NAMES, TEXT_NAMES
from encoder.contrastive.data import Captioned, Course
from encoder.contrastive.recipe import Source
from encoder.contrastive.towers import BuiltClip, build_clip, save_open_clip, start_from
from encoder.contrastive.trainer import ContrastiveModel, FrozenTexts, layers
from mllm.cli import main
from tests import recipes, tiny


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return recipes.write(tmp_path, recipes.CLIP, output="teacher")


def test_train_interrupt_resume_load(recipe, tmp_path, monkeypatch, capsys):
    assert main(["train-clip", str(recipe), "output=straight"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("straight: synthetic:validation:16: top_1 ")
    assert second.startswith("straight: synthetic:validation:12:size=40: image_to_text_r1 ")
    result = json.loads(Path("straight/metrics.json").read_text())["result"]
    assert 0 <= result["zero_shot"]["synthetic:validation:16"]["top_1"] <= 1
    assert 0 <= result["retrieval"]["synthetic:validation:12:size=40"]["text_to_image_r5"] <= 1
    assert [entry["step"] for entry in recipes.logged(Path("straight"))] == [1, 2, 3, 4]
    assert sorted(path.name for path in Path("straight").iterdir()) == [
        "metrics.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]

    forward, calls = ContrastiveModel.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ContrastiveModel, "forward", interrupted)
    assert main(["train-clip", str(recipe)]) == 130
    monkeypatch.setattr(ContrastiveModel, "forward", forward)
    assert [path.name for path in Path("teacher").glob("*-*")] == ["checkpoint-2"]
    # as a kill in the middle of saving leaves them
    (Path("teacher") / "checkpoint-3").mkdir()
    (Path("teacher") / "checkpoint-4").mkdir()
    (Path("teacher") / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')

    capsys.readouterr()
    assert main(["train-clip", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "--resume" in error
    assert error.count("\n") == 1

    assert main(["train-clip", str(recipe), "--resume"]) == 0
    straight, resumed = (load_file(f"{name}/open_clip_model.safetensors") for name in ("straight", "teacher"))
    assert straight.keys() == resumed.keys()
    for name, weight in straight.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)
    assert not list(Path("teacher").glob("checkpoint-*"))

    clip, _, preprocess = open_clip.create_model_and_transforms("local-dir:teacher")
    tokenizer = open_clip.get_tokenizer("local-dir:teacher")
    assert tokenizer(["a red circle"]).shape == (1, 48)
    for name, weight in clip.state_dict().items():
        torch.testing.assert_close(weight, straight[name], rtol=0, atol=0, msg=name)
    pixels = preprocess(Image.new("RGB", (40, 40), (255, 0, 51)))  # (1, 0, 0.2) minus mean, by std
    torch.testing.assert_close(pixels.mean((1, 2)), torch.tensor([0.5 / 0.2, -0.4 / 0.25, -0.1 / 0.3]))
    assert clip.encode_image(pixels[None]).shape == (1, 8)
    assert json.loads(Path("teacher/open_clip_config.json").read_text())["preprocess_cfg"]["size"] == [32, 32]


def tiny_clip(**vision) -> open_clip.CLIP:
    model = recipes.CLIP["model"]
    return build_clip({**model, "vision_cfg": model["vision_cfg"] | vision})


def vectors(model: ContrastiveModel, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model.clip.encode_image(pixels, normalize=True), model.clip.encode_text(ids, normalize=True)


def test_loss_and_bound():
    torch.manual_seed(0)
    model = ContrastiveModel(tiny_clip())
    with torch.no_grad():
        model.clip.logit_scale.fill_(9)
    pixels, ids, keys = torch.randn(3, 3, 32, 32), torch.randint(1, 49000, (3, 48)), torch.tensor([5, 6, 7])
    loss = model(pixels, ids, keys, keys)["loss"]
    assert model.clip.logit_scale.item() == pytest.approx(math.log(100))
    images, texts = vectors(model, pixels, ids)
    logits = 100 * images @ texts.T
    by_hand = -(logits.log_softmax(0).diag() + logits.log_softmax(1).diag()).mean() / 2
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-4)
    # the first and the last belong together: each is as right for the other as its own
    right = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    loss = model(pixels, ids, torch.tensor([5, 6, 5]), keys)["loss"]
    by_hand = -((logits.log_softmax(0) + logits.log_softmax(1)) * right).sum() / 3 / 2
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-4)


def test_texts_of_earlier_batches():
    torch.manual_seed(0)
    model = ContrastiveModel(tiny_clip(), bank=(3, 8))
    pixels, ids = torch.randn(6, 3, 32, 32), torch.randint(1, 49000, (6, 48))
    keys, texts = torch.tensor([1, 2, 1, 3, 4, 5]), torch.arange(10, 16)
    for batch in (slice(0, 2), slice(2, 4)):
        loss = model(pixels[batch], ids[batch], keys[batch], texts[batch])["loss"]
    images, words = vectors(model, pixels, ids)
    scale = model.clip.logit_scale.exp()
    # the third image is right for its own text and, by its key, for the first of the batch before
    of_images = (scale * images[2:4] @ words[[2, 3, 0, 1]].T).log_softmax(1)
    of_images = -(of_images[0, [0, 2]].mean() + of_images[1, 1]) / 2
    of_texts = -(scale * images[2:4] @ words[2:4].T).log_softmax(0).diag().mean()
    torch.testing.assert_close(loss, (of_images + of_texts) / 2, rtol=1e-4, atol=1e-5)
    assert sorted(model.bank_numbers[:, 1].tolist()) == [11, 12, 13]  # the oldest has made place
    model(pixels[2:4], ids[2:4], keys[2:4], texts[2:4])
    assert sorted(model.bank_numbers[:, 1].tolist()) == [11, 12, 13]  # what is there comes in no second time


def test_starts_from_what_saw_smaller_images(tmp_path):
    sin_cos = {"pos_embed_type": "sin_cos_2d"}
    trained, clip = tiny_clip(**sin_cos), tiny_clip(**sin_cos, image_size=64)
    trained.visual.preprocess_cfg = {}
    save_open_clip(tmp_path, BuiltClip(trained, recipes.CLIP["model"], None))
    positions = clip.visual.positional_embedding.clone()
    start_from(clip, str(tmp_path))
    assert torch.equal(clip.visual.positional_embedding, positions)
    weights = clip.state_dict()
    for name, weight in trained.state_dict().items():
        assert name == "visual.positional_embedding" or torch.equal(weights[name], weight), name
    for folder, other in ((tmp_path, tiny_clip(layers=2)), (tmp_path / "nowhere", tiny_clip())):
        with pytest.raises(InputError, match=f"init_from: {folder}: .*; name what mllm train-clip made"):
            start_from(other, str(folder))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 32, 32, generator=generator)
    return pixels, torch.randint(1, 49000, (4, 48), generator=generator)


def gradients(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Of this process's share of the batch, before they are averaged over the processes."""
    torch.manual_seed(0)
    model = ContrastiveModel(tiny_clip(), rank, world_size)
    share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    pixels, ids = batch()
    keys = torch.tensor([1, 2, 1, 3])  # of both processes
    model(pixels[share], ids[share], keys[share], torch.arange(4)[share])["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = gradients(rank, 2)
    for gradient in mine.values():
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(mine, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path):
    """The loss compares with the images and texts of all processes."""
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = gradients(0, 1)
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert alone["clip.visual.conv1.weight"].abs().max() > 1e-3


def captioned(**source) -> Captioned:
    return Captioned(Source(**source), (40, 40), BadSamples())


def test_the_course_of_a_run():
    scenes, objects = captioned(captioned="synthetic:train:100:size=40"), captioned(labeled="synthetic:train:64")
    texts = captioned(labeled="synthetic:train:42:classes=texts")
    stages = [([(objects, 3), (texts, 1)], 100), ([(scenes, 2), (objects, 1), (texts, 1)], 40)]
    course = Course(stages, shuffle=False)
    samples = [course[index] for index in range(len(course))]
    keys = [sample["key"] for sample in samples]
    assert [key for key in keys[:100] if key in TEXT_NAMES] == [*TEXT_NAMES, *TEXT_NAMES][:25]
    assert [key for key in keys[:100] if key in CLASS_NAMES] == [*CLASS_NAMES, *CLASS_NAMES][:75]
    for start in range(0, 100, 4):  # evenly
        assert sum(key in TEXT_NAMES for key in keys[start : start + 4]) == 1
    assert sum(key in TEXT_NAMES for key in keys[100:]) == sum(key in CLASS_NAMES for key in keys[100:]) == 10
    assert all(sample["caption"] in sample["captions"] and sample["key"] in sample["caption"] for sample in samples)
    assert len({sample["caption"].replace(sample["key"], "") for sample in samples[:100]}) > 5  # templates
    shuffled = Course([([(objects, 1)], 128)])
    both = [[shuffled[index]["key"] for index in range(start, start + 64)] for start in (0, 64)]
    assert sorted(both[0]) == sorted(both[1]) == sorted(CLASS_NAMES)
    assert len({tuple(each) for each in (*both, CLASS_NAMES)}) == 3


def test_a_bad_image_gives_way_to_the_next(tmp_path):
    for name, content in (("a/1.png", b"nothing"), ("a/2.png", None), ("b/1.png", None)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tiny.image(1).save(tmp_path / name) if content is None else (tmp_path / name).write_bytes(content)
    course = Course([([(captioned(labeled=str(tmp_path)), 1)], 3)], shuffle=False)
    assert [course[index]["key"] for index in range(3)] == ["a", "a", "b"]
    assert course[2]["caption"] == "a photo of a b."


def test_frozen_texts_are_embedded_once():
    calls = []

    def forward(ids: torch.Tensor) -> torch.Tensor:
        calls.append(ids.tolist())
        return ids.sum(dim=1, keepdim=True)

    texts = FrozenTexts(forward, padding=0, most=3)
    ids = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 0, 0]])
    assert texts(ids).tolist() == [[3], [3], [3]]
    assert calls == [[[1, 2], [3, 0]]]  # each once, without what is padding in all
    assert texts(torch.tensor([[3, 0, 0, 0], [4, 0, 0, 0]])).tolist() == [[3], [4]]
    assert calls[1:] == [[[4]]]


def test_layers_of_image_towers():
    of_clip = layers(tiny_clip(layers=2).visual)
    names = ("conv1.weight", "transformer.resblocks.0.ln_1.weight", "transformer.resblocks.1.ln_1.weight", "proj")
    assert [of_clip[name] for name in names] == [0, 1, 2, 2]
    assert of_clip.keys() == dict(tiny_clip(layers=2).visual.named_parameters()).keys()
    visual = tiny_clip(timm_model_name="tf_efficientnet_lite0").visual
    of_timm = layers(visual)
    assert {*of_timm, "head.proj.weight"} == {name for name, _ in visual.named_parameters()}
    assert of_timm["trunk.conv_stem.weight"] == 0
    assert of_timm["trunk.conv_head.weight"] == max(of_timm.values()) > 10

"""`mllm train-clip`: through the real main, interrupted and resumed, loaded by open_clip; zero-shot by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
import torch.distributed as dist
from open_clip.transform import PreprocessCfg
from PIL import Image
from safetensors.torch import load_file

from data import InputError
from data.synthetic.captions import CLASS_NAMES, TEXT_NAMES
from data.synthetic.scene import SceneConfig
from encoder.training.recipes import load_recipe
from mllm.cli import main
from mllm.lab.clip import (
    ClipRecipe,
    ContrastiveModel,
    ContrastiveTrainer,
    TeacherRecipe,
    TeacherScenes,
    build_clip,
    save_open_clip,
    start_from,
)
from tests import recipes


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return recipes.write(tmp_path, recipes.CLIP, output="teacher")


def test_train_interrupt_resume_load(recipe, tmp_path, monkeypatch, capsys):
    assert main(["train-clip", str(recipe), "output=straight"]) == 0
    assert capsys.readouterr().out.startswith("teacher straight: zero-shot accuracy ")
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


def test_loss_bound_and_decay(recipe):
    torch.manual_seed(0)
    clip = build_clip(load_recipe(TeacherRecipe, recipe).model)
    with torch.no_grad():
        clip.logit_scale.fill_(9)
    model = ContrastiveModel(clip)
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(1, 49000, (3, 48))
    loss = model(pixels, ids)["loss"]
    assert clip.logit_scale.item() == pytest.approx(math.log(100))
    images = torch.nn.functional.normalize(clip.encode_image(pixels), dim=-1)
    texts = torch.nn.functional.normalize(clip.encode_text(ids), dim=-1)
    logits = 100 * images @ texts.T
    by_hand = -(logits.log_softmax(0).diag() + logits.log_softmax(1).diag()).mean() / 2
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-4)
    decayed = ContrastiveTrainer.get_decay_parameter_names(None, model)
    assert {"clip.visual.conv1.weight", "clip.text_projection"} <= set(decayed)
    assert not {"clip.logit_scale", "clip.ln_final.weight", "clip.visual.transformer.resblocks.0.mlp.c_fc.bias"} & set(
        decayed
    )


def test_starts_from_what_saw_smaller_images(tmp_path):
    cfg = {**recipes.CLIP["model"]["vision_cfg"], "pos_embed_type": "sin_cos_2d"}
    small, large, other = (
        ClipRecipe(**{**recipes.CLIP["model"], "vision_cfg": {**cfg, **changed}})
        for changed in ({}, {"image_size": 64}, {"layers": 2})
    )
    trained, clip = build_clip(small), build_clip(large)
    save_open_clip(tmp_path, trained, small, PreprocessCfg())
    positions = clip.visual.positional_embedding.clone()
    start_from(clip, str(tmp_path))
    assert torch.equal(clip.visual.positional_embedding, positions)
    weights = clip.state_dict()
    for name, weight in trained.state_dict().items():
        assert name == "visual.positional_embedding" or torch.equal(weights[name], weight), name
    for folder, model in ((tmp_path, other), (tmp_path / "nowhere", small)):
        with pytest.raises(InputError, match=f"init_from: {folder}: .*; name what mllm train-clip made"):
            start_from(build_clip(model), str(folder))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 32, 32, generator=generator)
    return pixels, torch.randint(1, 49000, (4, 48), generator=generator)


def gradients(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Of this process's share of the batch, before they are averaged over the processes."""
    torch.manual_seed(0)
    model = ContrastiveModel(build_clip(ClipRecipe(**recipes.CLIP["model"])), rank, world_size)
    share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    pixels, ids = batch()
    model(pixels[share], ids[share])["loss"].backward()
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


def test_images_of_one_thing_come_first():
    scenes = TeacherScenes(140, SceneConfig(text_probability=1.0), first=100, fraction=0.5, text_fraction=0.25)
    captions = [scenes[index]["captions"][0] for index in range(len(scenes))]
    texts = [place for place, caption in enumerate(captions[:100]) if place % 4 == 3]
    assert [captions[place] for place in texts] == [f"{name}." for name in TEXT_NAMES] + [
        f"{name} is written." for name in TEXT_NAMES[:4]
    ]
    objects = [caption for place, caption in enumerate(captions[:100]) if place not in texts]
    assert objects[:64] == [f"a picture of one {name}." for name in CLASS_NAMES]
    whole = [caption for caption in captions[100:] if "word" in caption or "number" in caption or "says" in caption]
    assert 20 <= len(whole) <= 25  # every second one has objects and a text; of the others every fourth a text alone

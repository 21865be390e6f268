"""Several teachers at once: their scales, their heads, their views, and a run with two of them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from encoder import SparseFormerImageProcessor, SparseFormerVisionModel, load_clip
from encoder.bootstrapping.balance import BALANCES, Balance, angles, balanced_width
from encoder.bootstrapping.heads import (
    GridDecoder,
    StudentWithHeads,
    load_student,
    save_student,
    with_heads,
    without_heads,
)
from encoder.bootstrapping.losses import Target, angle, mse, tokens
from encoder.bootstrapping.objectives import STATISTICS, Objective, measure_balances
from encoder.modeling import SparseFormerOutput
from encoder.teachers import (
    load_teacher,
    open_clip_teacher,
    sparseformer_teacher,
    timm_teacher,
    transformers_teacher,
)
from encoder.training.images import ImageCollator
from mllm.cli import main
from tests import recipes, tiny
from tests.test_bootstrapping import tiny_clip


def features(count: int = 4000) -> torch.Tensor:
    """Correlated, of very different variances, far from 0: (count, 6)."""
    mixed = torch.randn(count, 6) @ torch.diag(torch.tensor([5.0, 1.0, 0.1, 0.1, 0.02, 0.0]))
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    return mixed @ rotation + torch.tensor([100.0, -3.0, 0.0, 0.0, 1.0, 7.0])


@pytest.mark.parametrize("kind", list(BALANCES))
def test_a_balance_by_what_it_promises(kind):
    given = features()
    balance = Balance.of(kind, given)
    balanced = balance(given)
    assert balanced.shape == (4000, balanced_width(kind, 6))
    assert balanced.mean(dim=0).abs().max() < 1e-3
    assert torch.allclose(balance.restored(balanced), given, atol=1e-3)
    if kind == "none":
        return
    assert torch.allclose(balanced.var(dim=0), torch.ones(balanced.shape[1]), atol=1e-2)
    lengths = (balanced[0] - balanced[1:]).norm(dim=-1) / (given[0] - given[1:]).norm(dim=-1)
    assert (lengths.std() / lengths.mean() < 1e-3) == (kind == "phi_s")  # which changes the scale alone
    with pytest.raises(ValueError, match="the same of all images"):
        Balance.of(kind, torch.ones(5, 6))


def test_losses_are_1_for_who_always_says_the_same():
    given = features()
    mean = SparseFormerOutput(image_embeds=given.mean(dim=0).expand_as(given))
    for kind in ("phi_s", "standardized"):
        target = Target(given, balance=Balance.of(kind, given))
        assert mse(mean, target).item() == pytest.approx(1.0, abs=1e-2)
        assert angle(mean, target).item() == pytest.approx(1.0, abs=1e-2)
        assert mse(SparseFormerOutput(image_embeds=given), target) == 0
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]], requires_grad=True)
    assert angles(first, second).item() == pytest.approx(np.pi / 4)
    (gradient,) = torch.autograd.grad(angles(second, second.detach()).square().sum(), second)
    assert gradient.isfinite().all()


def test_tokens_are_compared_where_the_teacher_sees_them():
    """It sees the right half; a token's RoI in the left half does not count."""
    patches = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).T.reshape(1, 3, 1, 2)
    rois = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.625, 0.5, 0.625, 0.5], [0.875, 0.5, 0.875, 0.5]]])
    said = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    target = Target(torch.zeros(1, 2), patches, window=(0.5, 0.0, 1.0, 1.0))
    student = SparseFormerOutput(hidden_states=(said,), rois=rois)
    assert tokens(student, target).item() == pytest.approx(0.0, abs=1e-5)
    everywhere = Target(torch.zeros(1, 2), patches)
    assert tokens(student, everywhere).item() > 0.3


def test_all_teachers_see_the_same_part_of_an_image():
    """A gradient from left to right, wider than high: the middle, as the first processor crops it."""
    image = Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))[..., None].repeat(3, axis=2))
    first = SparseFormerImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    squash = {
        "size": {"height": 64, "width": 64},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [2.0] * 3,
    }
    other = SparseFormerImageProcessor(**squash)
    batch = ImageCollator(first, more={"other": other.framed_as(first)})([{"image": image}])
    assert batch["other"].shape == (1, 3, 64, 64)
    seen = [
        values[0, 0].mean(dim=0) * std + mean
        for values, mean, std in (
            (batch["pixel_values"], first.image_mean[0], first.image_std[0]),
            (batch["other"], 0.5, 2.0),
        )
    ]
    assert torch.allclose(torch.nn.functional.avg_pool1d(seen[1][None], 2)[0], seen[0], atol=0.02)
    assert seen[0][0] > 0.1  # and not all of it
    teacher = open_clip_teacher(tiny_clip().visual)
    objective = Objective("pixel_values", teacher, {"cosine": 1.0}, own=True)
    images, windows = torch.randn(2, 3, 40, 40), set()
    for step in range(8):
        target = objective.teach(images, np.random.default_rng(step))
        x, y = (round(40 * side) for side in target.window[:2])
        assert torch.equal(target.embedding, teacher(images[..., y : y + 32, x : x + 32]))
        windows.add((x, y))
    assert len(windows) > 4


def test_a_decoder_puts_tokens_where_their_rois_are():
    """Two tokens, left and right, and a grid of two patches: trained for a moment, each patch says its token."""
    decoder = GridDecoder(tiny.sparseformer_config(), 4)
    rois = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]]).expand(64, -1, -1)
    places = rois[0]
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(150):
        said = torch.randn(64, 2, 32)
        loss = (decoder(said, rois, places) - said[..., :4]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    swapped = decoder(said, rois.flip(1), places) - said.flip(1)[..., :4]
    assert swapped.square().mean().item() < 0.4


LOSSES = {"mse": 1.0, "angle": 0.5, "cosine": 0.5, "relational": 0.1, "tokens": 1.0, "places": 1.0, "focus": 0.1}
LOSSES |= {"grid": 1.0}


def objectives() -> list[Objective]:
    torch.manual_seed(0)
    cnn = timm_teacher(timm.create_model("test_convnext2", num_classes=7).eval(), 32)
    found = [
        Objective("pixel_values", open_clip_teacher(tiny_clip().visual), {"cosine": 1.0}, "phi_s", own=True),
        Objective("pixel_values_2", cnn, LOSSES, "phi_s"),
    ]
    batches = [{each.key: torch.randn(5, 3, 32, 32) for each in found} for _ in range(3)]
    measure_balances(found, batches, torch.device("cpu"))
    return found


def test_heads_leave_the_student_as_it_is_and_survive_a_stage(tmp_path):
    tiny.sparseformer(tmp_path / "tower", projection_dim=24)
    both = objectives()
    assert (set(both[0].balances), set(both[1].balances)) == (set(), {"embedding", "patches"})
    student = SparseFormerVisionModel(tiny.sparseformer_config(projection_dim=24))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    model = with_heads(student, both)
    assert isinstance(model, StudentWithHeads)
    assert with_heads(student, both[:1]) is student
    for name, value in without_heads(model).state_dict().items():
        assert torch.equal(value, before[name]), name
    images = torch.randn(3, 3, 32, 32)
    grid = both[1].teach(images, np.random.default_rng(0)).grid
    assert torch.allclose(grid[0, :2], torch.zeros(2))
    assert torch.allclose(grid[-1, 2:], torch.ones(2))
    first, second = model(pixel_values=images, grids={"pixel_values_2": grid})
    assert torch.equal(first.image_embeds, student(images).image_embeds)
    says = both[1].restored(second)
    assert says.image_embeds.shape == (3, 7)
    assert says.token_embeds.shape == (3, 4, 7)
    assert says.hidden_states[-1].shape == (3, 4, both[1].teacher.patch_width)
    assert says.grid.shape == (3, len(grid), balanced_width("phi_s", both[1].teacher.patch_width))
    # A new head says about the teacher's mean.
    assert torch.allclose(says.image_embeds, both[1].balances["embedding"].mean.expand(3, 7), atol=0.1)
    save_student(tmp_path / "stage", model.train())
    again = load_student(tmp_path / "stage", both)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    both[1].losses = {"mse": 1.0}
    with pytest.raises(ValueError, match=r"heads\.safetensors"):
        load_student(tmp_path / "stage", both)


@pytest.fixture(scope="module")
def cnn_dir(tmp_path_factory):
    torch.manual_seed(0)
    cnn = timm.create_model("test_convnext2", num_classes=7)
    folder = tmp_path_factory.mktemp("cnn")
    timm.models.save_for_hf(cnn, str(folder / "cnn"), safe_serialization=True, data_config={"img_size": 48})
    return folder / "cnn"


def two_teachers(folder, open_clip_dir, cnn_dir, **changes):
    """A CLIP, whose text tower stays, and a CNN at another resolution; both stages train the heads."""
    rates = {"focusing": 1e-2, "heads": 1e-2}
    stages = [
        {"name": "first", "steps": 2, "learning_rates": rates},
        {"name": "second", "steps": 4, "learning_rates": rates},
    ]
    teachers = [{"name": f"timm:{cnn_dir}", "image_size": 48, "weight": 2.0, "losses": LOSSES}]
    values = {"teachers": teachers, "stages": stages, "balance_images": 12, "shift": 0.25, "ema": 0.9}
    return recipes.bootstrap(folder, open_clip_dir, **{**values, "zero_shot": [], "held_out_images": 1, **changes})


def test_two_teachers_interrupted_end_as_uninterrupted(open_clip_dir, cnn_dir, tmp_path, monkeypatch, caplog, capsys):
    from encoder.training import spine

    whole = two_teachers(tmp_path / "whole", open_clip_dir, cnn_dir)
    with caplog.at_level("INFO"):
        assert main(["bootstrap", str(whole)]) == 0
    assert "teacher 2: ConvNeXt, 7 features" in caplog.text
    assert "stage first: heads" in caplog.text
    logged = recipes.logged(tmp_path / "whole/student")[-1]
    assert {"loss_cosine"} | {f"loss_{name}_2" for name in LOSSES} <= logged.keys()
    files = sorted(file.name for file in (tmp_path / "whole/student").iterdir())
    assert STATISTICS in files
    assert not [name for name in files if "heads" in name]
    clip, _, tokenizer = load_clip(tmp_path / "whole/student")
    assert not [name for name in clip.state_dict() if "heads" in name]
    assert clip.encode_text(tokenizer(["a red circle"])).shape == (1, 16)

    class Killed(BaseException):
        pass

    def stop_in_the_second_stage(trainer, progress, fit=spine.fit):
        if trainer.stage.name == "second":
            trainer.args.max_steps = 2
            fit(trainer, progress)
            raise Killed
        fit(trainer, progress)

    cut = two_teachers(tmp_path / "cut", open_clip_dir, cnn_dir)
    with monkeypatch.context() as patch:
        patch.setattr(spine, "fit", stop_in_the_second_stage)
        with pytest.raises(Killed):
            main(["bootstrap", str(cut)])
    kept = load_file(tmp_path / "cut/student/stage-2-second/checkpoint-2/model.safetensors")
    assert any(name.startswith("heads.pixel_values_2.") for name in kept)
    assert main(["bootstrap", str(cut), "--resume"]) == 0
    first, second = (load_file(tmp_path / name / "student/model.safetensors") for name in ("whole", "cut"))
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name


BAD = [
    ({"balance": "phi"}, "balance='phi': there are phi_s, standardized, none"),
    ({"shift": 2}, "shift=2"),
    ({"stages": [{"learning_rates": {"focusing": 1e-2}}]}, "name 'heads' in the learning_rates of the first"),
    ({"teachers": []}, "learning_rates name 'heads'"),
    ({"teachers": [{"image_size": 48}]}, "name is missing"),
    ({"teachers": [{"name": "timm:nothing_such"}]}, "teachers[0]: timm:nothing_such cannot be loaded"),
    ({"teachers": [{"name": "CNN", "losses": {"l2": 1}}]}, "losses: unknown l2"),
    ({"teachers": [{"name": "CNN", "weight": -1}]}, "weight=-1"),
    ({"teachers": [{"name": "CLIP", "losses": {"places": 1}}]}, "teachers[0]: losses: only a CNN of timm's"),
    ({"teacher_cache": "x"}, "teacher_cache"),
]


@pytest.mark.parametrize(("values", "words"), BAD)
def test_bad_teachers_are_one_line(values, words, open_clip_dir, cnn_dir, tmp_path, capsys):
    names = {"CNN": f"timm:{cnn_dir}", "CLIP": str(open_clip_dir)}
    for each in values.get("teachers", []):
        each |= {"name": names.get(each["name"], each["name"])} if "name" in each else {}
    recipe = two_teachers(tmp_path, open_clip_dir, cnn_dir, **values)
    assert main(["bootstrap", str(recipe)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "student").exists()


def test_a_dry_run_of_two_teachers(open_clip_dir, cnn_dir, tmp_path, capsys):
    recipe = two_teachers(tmp_path, open_clip_dir, cnn_dir)
    assert main(["bootstrap", str(recipe), "--dry-run", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["teacher", "teacher 2", "student", "stage first", "stage second"]
    assert not (tmp_path / "student").exists()


def test_a_tower_that_cannot_be_inherited_has_patches():
    """Rotary positions or a gated MLP, from timm and transformers; a SparseFormer's tokens, put on a grid."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    processor = transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    eva = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1, embed_dim=48, num_heads=2, num_classes=0)
    rotary = transformers.DINOv3ViTConfig(**sizes, num_register_tokens=2, intermediate_size=64)
    gated = transformers.Dinov2Config(**sizes, use_swiglu_ffn=True)
    tower = SparseFormerVisionModel(tiny.sparseformer_config())
    for teacher, width, side in (
        (timm_teacher(eva.eval()), 48, 2),
        (transformers_teacher(transformers.DINOv3ViTModel(rotary), processor), 32, 4),
        (transformers_teacher(transformers.Dinov2Model(gated), processor), 32, 4),
        (sparseformer_teacher(tower, SparseFormerImageProcessor(size={"shortest_edge": 32}, crop_size=32)), 32, 2),
    ):
        images = torch.randn(2, 3, teacher.image_size, teacher.image_size)
        embeddings, patches = teacher.with_patches(images)
        assert torch.allclose(embeddings, teacher(images), atol=1e-5)
        assert patches.shape == (2, width, side, side)
        assert teacher.patch_width == width


def test_a_sparseformer_teaches_smaller_ones(open_clip_dir, tmp_path, capsys):
    """A chain: 9 tokens of a CLIP, then 5 with its last blocks, then 3 of another width; all keep the text tower."""
    common = {"zero_shot": [], "held_out_images": 1}
    small = {"early_channels": 8, "mixing_hidden_size": 8}
    stages = [{"name": "a", "steps": 1, "learning_rates": {"focusing": 1e-2, "head": 1e-3}}]
    teacher = open_clip_dir
    for name, options in (
        ("large", {"num_tokens": 9}),
        ("base", {"num_tokens": 5, "first_block": 2}),
        ("small", {"num_tokens": 3, "inherit": False, "width": 64, "depth": 1}),
    ):
        given = {"student": {**small, **options}, "stages": stages, **common}
        recipe = recipes.bootstrap(tmp_path, teacher, output=str(tmp_path / name), **given)
        assert main(["bootstrap", str(recipe)]) == 0
        teacher = tmp_path / name
    large, base, least = (load_clip(tmp_path / name) for name in ("large", "base", "small"))
    assert [len(clip.visual.model.cortex) for clip, _, _ in (large, base, least)] == [4, 2, 1]
    ours, theirs = (clip.visual.model.cortex[-1].mlp.fc1.weight for clip, _, _ in (base, large))
    assert torch.equal(ours, theirs)
    words = large[2](["a red circle"])
    assert torch.allclose(least[0].encode_text(words), large[0].encode_text(words), atol=1e-6)
    assert "3 tokens against 5" in capsys.readouterr().out
    assert load_teacher(str(tmp_path / "base"), text=False).teacher.num_blocks == 2

"""Teachers of every library: the inherited cortex and head compute what the tower does; what cannot is refused."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import transformers
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from encoder import SparseFormerImageProcessor, SparseFormerVisionModel, load_clip, save_clip
from encoder.bootstrapping import StudentOptions, build_student
from encoder.teachers import Teacher, TeacherError, load_teacher, open_clip_teacher, timm_teacher, transformers_teacher
from tests import tiny

OPTIONS = {"num_tokens": 6, "early_channels": 8, "mixing_hidden_size": 8}
SMALL = {"img_size": 32, "embed_dim": 48, "depth": 3, "num_heads": 3}
HF = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}


COCA = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 3}


def randomised(tower: torch.nn.Module) -> torch.nn.Module:
    """Zero biases, unit norms and equal layer scales would hide a mix-up."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(std=0.2)
    return tower.eval()


def open_clip_vit(act=torch.nn.GELU, **changes) -> Teacher:
    settings = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "heads": 3, "mlp_ratio": 4.0}
    tower = VisionTransformer(**{**settings, "output_dim": 24, "act_layer": act, **changes})
    return open_clip_teacher(randomised(tower))


def timm_model(name: str, **changes) -> torch.nn.Module:
    return randomised(timm.create_model(name, **{**SMALL, **changes}))


def timm_in_open_clip(trunk: torch.nn.Module, **changes) -> Teacher:
    visual = TimmModel("test_vit", embed_dim=20, image_size=32, **changes)
    if "proj" in dict(visual.head.named_children()):
        visual.head.proj = torch.nn.Linear(48, 20, bias=visual.head.proj.bias is not None)
    visual.trunk = trunk
    return open_clip_teacher(randomised(visual))


def hf(model: torch.nn.Module, side: int = 32) -> Teacher:
    size = {"height": side, "width": side}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=size)
    return transformers_teacher(randomised(model), processor)


def clip_vision(**changes) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(**{**HF, "projection_dim": 24, **changes})


INHERITED = {
    "openai": lambda: open_clip_vit(QuickGELU),
    "laion": lambda: open_clip_vit(),
    "open_clip mean": lambda: open_clip_vit(pool_type="avg"),
    "open_clip mean, then norm": lambda: open_clip_vit(pool_type="avg", final_ln_after_pool=True),
    "open_clip layer scale": lambda: open_clip_vit(ls_init_value=0.1),
    "open_clip q/k norm": lambda: open_clip_vit(block_type="custom", qk_norm=True),
    "coca": lambda: open_clip_vit(**COCA, output_tokens=True),
    "coca, one width": lambda: open_clip_vit(**COCA, output_dim=48),
    "timm in open_clip": lambda: timm_in_open_clip(
        timm.create_model("vit_base_patch16_224", num_classes=0, **SMALL), pool="token", proj="linear", proj_bias=True
    ),
    "siglip in open_clip": lambda: timm_in_open_clip(
        timm.create_model("vit_base_patch16_siglip_224", **SMALL), pool="", proj="none"
    ),
    "augreg": lambda: timm_teacher(timm_model("vit_base_patch16_224", num_classes=10)),
    "augreg large 384": lambda: timm_teacher(timm_model("vit_large_patch16_384", num_classes=10, img_size=48)),
    "timm openai": lambda: timm_teacher(timm_model("vit_base_patch16_clip_quickgelu_224", num_classes=24)),
    "timm laion": lambda: timm_teacher(timm_model("vit_large_patch14_clip_224", num_classes=24, img_size=42)),
    "timm dinov2": lambda: timm_teacher(timm_model("vit_base_patch14_dinov2", img_size=42)),
    "timm dinov2 registers": lambda: timm_teacher(timm_model("vit_base_patch14_reg4_dinov2", img_size=42)),
    "timm siglip": lambda: timm_teacher(timm_model("vit_base_patch16_siglip_224")),
    "timm siglip2 tanh": lambda: timm_teacher(timm_model("vit_base_patch16_siglip_224", act_layer="gelu_tanh")),
    "timm siglip mean": lambda: timm_teacher(timm_model("vit_base_patch16_siglip_gap_224")),
    "timm mean, then norm": lambda: timm_teacher(timm_model("vit_base_patch16_224", global_pool="avg")),
    "timm q/k norm, no qkv bias": lambda: timm_teacher(
        timm_model("vit_base_patch16_224", qk_norm=True, qkv_bias=False)
    ),
    "timm so400m": lambda: timm_teacher(timm_model("vit_so400m_patch14_siglip_224", img_size=28)),
    "hf clip": lambda: hf(transformers.CLIPVisionModel(clip_vision())),
    "hf clip with projection": lambda: hf(transformers.CLIPVisionModelWithProjection(clip_vision(hidden_act="gelu"))),
    "hf siglip": lambda: hf(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**HF))),
    "hf dinov2": lambda: hf(transformers.Dinov2Model(transformers.Dinov2Config(**{**HF, "image_size": 64}))),
    "hf dinov2 registers": lambda: hf(
        transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**HF))
    ),
    "hf vit": lambda: hf(transformers.ViTModel(transformers.ViTConfig(**HF), add_pooling_layer=False)),
    "hf vit, no qkv bias": lambda: hf(transformers.ViTModel(transformers.ViTConfig(**HF, qkv_bias=False))),
    "hf vit classifier": lambda: hf(transformers.ViTForImageClassification(transformers.ViTConfig(**HF, num_labels=7))),
}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def run_block(teacher: Teacher, index: int, tokens: torch.Tensor) -> torch.Tensor:
    block = teacher.blocks.modules[index]
    masked = "attention_mask" in inspect.signature(block.forward).parameters  # which transformers' want to be given
    return block(tokens, attention_mask=None) if masked else block(tokens)


def check_agreement(teacher: Teacher, images: torch.Tensor) -> None:
    """All inherited blocks, the final norm, pooling and projection against the tower's own, on the tower's tokens."""
    student = build_student(teacher, StudentOptions(first_block=0, **OPTIONS)).double().eval()
    teacher.double()
    seen: list[torch.Tensor] = []
    hooks = [teacher.inheritable().modules[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))]
    hooks += [module.register_forward_hook(lambda *call: seen.append(call[2])) for module in teacher.blocks.modules]
    theirs = teacher(images.double())
    for hook in hooks:
        hook.remove()
    assert len(student.cortex) == teacher.num_blocks == len(seen) - 1
    assert seen[0].shape[1] == teacher.num_tokens
    tokens = seen[0]
    with torch.no_grad():
        for index, unit in enumerate(student.cortex):
            tokens = unit(tokens)[0]
            assert relative(tokens, seen[index + 1]) < 1e-5, f"block {index}"
        pooled = student.pool(tokens)[1]
        ours = pooled if student.projection is None else student.projection(pooled)
    assert ours.shape == theirs.shape == (len(images), teacher.embed_dim)
    assert student.config.embed_dim == teacher.embed_dim
    assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", INHERITED)
def test_cortex_and_head_agree_with_the_tower(name):
    teacher = INHERITED[name]()
    side = teacher.image_size
    check_agreement(teacher, torch.randn(2, 3, side, side))
    # The published rule: the first third of the blocks is dropped.
    student = build_student(teacher.float(), StudentOptions(**OPTIONS)).eval()
    tokens = torch.randn(2, 6, teacher.blocks.width)
    with torch.no_grad():
        assert len(student.cortex) == teacher.num_blocks - teacher.num_blocks // 3
        assert relative(student.cortex[0](tokens)[0], run_block(teacher, teacher.num_blocks // 3, tokens)) < 1e-5
        output = student(torch.randn(1, 3, side, side))
    assert output.embedding.shape == (1, teacher.embed_dim)
    assert output.last_hidden_state.shape[1] == 6


def test_what_is_read_from_the_instance():
    facts = {name: INHERITED[name]() for name in ("openai", "timm dinov2", "timm siglip2 tanh", "hf siglip", "hf clip")}
    fields = {name: teacher.blocks.fields for name, teacher in facts.items()}
    activations = ["quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_pytorch_tanh", "quick_gelu"]
    assert [each["hidden_act"] for each in fields.values()] == activations
    assert [each["layer_scale"] for each in fields.values()] == [False, True, False, False, False]
    assert [each["layer_norm_eps"] for each in fields.values()] == [1e-5, 1e-6, 1e-6, 1e-6, 1e-5]
    assert [each["class_token"] for each in fields.values()] == [True, True, False, False, True]
    assert [teacher.num_tokens for teacher in facts.values()] == [17, 10, 4, 16, 17]
    assert all(not parameter.requires_grad for teacher in facts.values() for parameter in teacher.parameters())


def swiglu() -> transformers.Dinov2Model:
    return transformers.Dinov2Model(transformers.Dinov2Config(**HF, use_swiglu_ffn=True))


def eva(**changes) -> torch.nn.Module:
    return timm.create_model("vit_small_patch16_dinov3", **{**SMALL, **changes})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: open_clip_teacher(ModifiedResNet([1, 1, 1, 1], 24, 4, 32, 8)), "ModifiedResNet is not open_clip's"),
        (lambda: timm_teacher(timm.create_model("test_convnext")), "ConvNeXt is not timm's"),
        (lambda: timm_teacher(eva()), "positions are rotary"),
        (lambda: timm_teacher(eva(use_rot_pos_emb=False)), "Eva is not timm's"),
        (lambda: timm_teacher(timm_model("vit_giant_patch14_dinov2", img_size=28)), "MLP is gated (GluMlp"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_rpn_224")), "block 0: it is a post-norm block"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_xp_224")), "ParallelScalingBlock is no plain"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_224", norm_layer="rmsnorm")), "RmsNorm is in the place"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_224", act_layer="silu")), "its activation is SiLU"),
        (
            lambda: timm_teacher(timm_model("vit_base_patch16_224", scale_mlp_norm=True)),
            "mlp.norm.bias, mlp.norm.weight",
        ),
        (lambda: timm_teacher(timm_model("vit_base_patch16_224", global_pool="max")), "its pooling is 'max'"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_224", global_pool="map")), "leaves out the class token"),
        (lambda: timm_teacher(timm_model("vit_base_patch16_224", final_norm=False)), "has 0 final norms"),
        (lambda: open_clip_vit(**COCA, pool_type="avg"), "attention pool is followed by another"),
        (lambda: open_clip_vit(block_type="custom", scale_fc=True), "mlp.ln.bias, mlp.ln.weight"),
        (lambda: open_clip_vit(act=torch.nn.ReLU), "its activation is ReLU"),
        (
            lambda: timm_in_open_clip(
                timm.create_model("test_vit", num_classes=0, img_size=32), pool="token", proj="mlp"
            ),
            "its projection has mlp",
        ),
        (lambda: hf(swiglu()), "MLP is gated (Dinov2SwiGLUFFN)"),
        (lambda: hf(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**HF))), "positions are rotary"),
        (
            lambda: hf(
                transformers.DINOv3ConvNextModel(
                    transformers.DINOv3ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
                )
            ),
            "DINOv3ConvNextModel is no ViT",
        ),
    ],
)
def test_what_cannot_be_inherited_is_refused(make, words):
    teacher = make()  # its embedding can be learnt all the same
    assert words in teacher.unsupported
    assert "\n" not in teacher.unsupported
    assert (teacher.num_blocks, teacher.num_tokens) == (0, 0)
    with pytest.raises(TeacherError, match=r"no blocks can be inherited: .* width and depth"):
        build_student(teacher, StudentOptions(**OPTIONS))


def test_blocks_that_differ_are_refused():
    tower = timm_model("vit_base_patch16_224")
    tower.blocks[2].mlp.act = QuickGELU()
    assert timm_teacher(tower).unsupported == "block 2 differs from block 0 in hidden_act"
    tower.blocks[2] = timm.create_model("vit_base_patch16_224", **SMALL).blocks[2]
    tower.blocks[2].norm2.eps = 1e-3
    assert "block 2: its LayerNorms differ in eps" in timm_teacher(tower).unsupported
    tower = timm_model("vit_base_patch16_224")
    tower.norm.eps = 1e-3
    assert "a norm of its head has eps 0.001" in timm_teacher(tower).unsupported


def test_what_is_no_teacher_at_all():
    with pytest.raises(TeacherError, match=r"its output for one image has the shape \(1, 5, 48\)"):
        timm_teacher(timm_model("vit_base_patch16_224", global_pool="", num_classes=0))
    with pytest.raises(ValueError, match="a square one is"):
        timm_teacher(timm_model("vit_base_patch16_224", img_size=(32, 48)))
    with pytest.raises(TeacherError, match="no pooling head"):
        hf(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**HF, vision_use_head=False)))
    with pytest.raises(TeacherError, match="Linear is not known"):
        hf(torch.nn.Linear(1, 1))


def test_a_cnns_student_takes_anothers_blocks_or_none():
    cnn = open_clip_teacher(ModifiedResNet([1, 1, 1, 1], 24, 4, 32, 8))
    vit = INHERITED["timm siglip"]()
    student = build_student(cnn, StudentOptions(**OPTIONS), vit)
    assert len(student.cortex) == 2
    assert torch.equal(student.cortex[1].attn.qkv.weight, vit.tower.blocks[2].attn.qkv.weight)
    assert torch.equal(student.attention_pool.kv.weight, vit.tower.attn_pool.kv.weight)
    assert torch.equal(student.norm.bias, vit.tower.norm.bias)
    assert student.projection.weight.shape == (24, 48)
    student = build_student(cnn, StudentOptions(inherit=False, width=64, depth=2, **OPTIONS))
    assert (len(student.cortex), student.config.heads(64), student.config.embed_dim) == (2, 1, 24)
    assert student(torch.randn(1, 3, 32, 32)).embedding.shape == (1, 24)
    for options, words in (
        ({"inherit": False}, "width and depth"),
        ({"inherit": False, "width": 64, "depth": 2, "num_tokens": None}, "num_tokens"),
    ):
        with pytest.raises(ValueError, match=words):
            build_student(cnn, StudentOptions(**{**OPTIONS, **options}))
    with pytest.raises(ValueError, match="width and depth are those of the inherited"):
        build_student(vit, StudentOptions(width=64, depth=2, **OPTIONS))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_timms_preprocessing(crop_mode):
    config = {"input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": crop_mode}
    config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    theirs = timm.data.create_transform(**config, is_training=False)
    ours = SparseFormerImageProcessor.from_timm(config)
    assert ours.output_size == (48, 48)
    for width, height in ((64, 80), (200, 101), (30, 30)):
        image = tiny.image(1, width, height)
        seen = ours(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(seen, theirs(image), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="crop_mode='border'"):
        SparseFormerImageProcessor.from_timm(config | {"crop_mode": "border"})


def test_transformers_preprocessing():
    for theirs, size in (
        (transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}), 32),
        (transformers.SiglipImageProcessor(size={"height": 24, "width": 24}), 24),
        (transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}), 32),
    ):
        ours = SparseFormerImageProcessor.from_transformers(theirs)
        assert ours.output_size == (size, size)
        image = tiny.image(1, 80, 60)
        seen, expected = (each(images=image, return_tensors="pt")["pixel_values"] for each in (ours, theirs))
        assert seen.shape == expected.shape
        assert (seen - expected).abs().max() < 0.1  # theirs may resize with torch, whose rounding differs
    with pytest.raises(ValueError, match="do_pad"):
        SparseFormerImageProcessor.from_transformers(SimpleNamespace(to_dict=lambda: {"do_pad": True}))
    with pytest.raises(ValueError, match="not fixed"):
        _ = SparseFormerImageProcessor(do_center_crop=False).output_size


def test_loading_from_transformers(clip_dir, siglip_dir, tmp_path):
    clip = load_teacher(f"transformers:{clip_dir}")
    assert isinstance(clip.teacher.tower, transformers.CLIPVisionModelWithProjection)
    assert (clip.teacher.embed_dim, clip.teacher.image_size, clip.teacher.num_tokens) == (16, 32, 17)
    images = torch.randn(1, 3, 32, 32)
    expected = transformers.CLIPModel.from_pretrained(clip_dir).get_image_features(images)
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(clip.teacher(images), expected)
    assert load_teacher(str(siglip_dir)).teacher.num_tokens == 16  # a directory says what it is
    with pytest.raises(TeacherError, match="leave pretrained out"):
        load_teacher(str(siglip_dir), "openai")
    model = transformers.Dinov2Model(transformers.Dinov2Config(**HF))
    model.save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="cannot be loaded"):  # no preprocessor_config.json
        load_teacher(str(tmp_path))
    transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        tmp_path
    )
    teacher = load_teacher(str(tmp_path)).teacher  # images of another size than the positions were made for
    torch.testing.assert_close(teacher(images), model.eval()(images).pooler_output)
    assert teacher.num_tokens == 65
    weights = load_file(tmp_path / "model.safetensors")
    weights["surplus"] = weights.pop("layernorm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"missing: layernorm\.weight; unexpected: surplus"):
        load_teacher(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Dinov2Backbone"]}))
    with pytest.raises(TeacherError, match="Dinov2Backbone, which is not known"):
        load_teacher(str(tmp_path))


TRANSFORMERS = {
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(**HF)), 48),
    "vit without a pooler": (lambda: transformers.ViTModel(transformers.ViTConfig(**HF), add_pooling_layer=False), 48),
    "classifier": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**HF, num_labels=7)), 7),
    "dinov2 with registers": (
        lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**HF)),
        48,
    ),
    "dinov3": (lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**HF)), 48),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_directories_of_transformers(kind, tmp_path):
    make, width = TRANSFORMERS[kind]
    model = randomised(make())
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(images)
    expected = output.logits if kind == "classifier" else output.last_hidden_state[:, 0]
    teacher = load_teacher(f"transformers:{tmp_path}").teacher
    torch.testing.assert_close(teacher(images), expected)
    assert teacher.embed_dim == width
    larger = load_teacher(str(tmp_path), image_size=48).teacher
    assert larger(torch.randn(1, 3, 48, 48)).shape == (1, width)
    assert larger.num_tokens in (0, 37, 41)  # none to inherit; registers counted
    assert load_teacher(str(tmp_path), random=True).teacher.num_blocks == teacher.num_blocks


def test_a_size_that_leaves_a_rim_is_said(clip_dir, open_clip_dir, caplog):
    for source, size, words in (
        (str(clip_dir), 50, "48 or 56"),
        (str(open_clip_dir), 35, "32 or 40"),
        ("timm:vit_tiny_patch16_224", 40, "32 or 48"),
    ):
        caplog.clear()
        load_teacher(source, image_size=size, random=source.startswith("timm:"))
        [record] = [each for each in caplog.records if each.name == "encoder.teachers.loading"]
        assert f"image size {size} is no multiple of its patches' side" in record.message
        assert words in record.message
        caplog.clear()
        load_teacher(source, image_size=48, random=source.startswith("timm:"))
        assert "multiple" not in caplog.text


def test_loading_from_timm(tmp_path):
    model = timm_model("test_vit", num_classes=7)
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    for source in (str(tmp_path / "saved"), f"timm:{tmp_path / 'saved'}"):
        loaded = load_teacher(source)
        assert loaded.text is None
        assert (loaded.teacher.embed_dim, loaded.teacher.image_size) == (7, 32)
        images = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(loaded.teacher(images), model(images))
    named = randomised(timm.create_model("test_vit"))
    save_file(named.state_dict(), tmp_path / "weights.safetensors")
    torch.save(named.state_dict(), tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        teacher = load_teacher("timm:test_vit", str(tmp_path / file)).teacher
        assert torch.equal(teacher.tower.head.weight, named.head.weight)
    save_file({"surplus": torch.ones(1)}, tmp_path / "other.safetensors")
    for name, pretrained, words in (
        ("timm:nothing", None, "Unknown model"),
        ("timm:test_vit", "nothing", "cannot be loaded"),
        ("timm:test_vit", str(tmp_path / "other.safetensors"), "surplus"),
    ):
        with pytest.raises(TeacherError, match=words) as error:
            load_teacher(name, pretrained)
        assert "\n" not in str(error.value)


TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture
def named_clip(monkeypatch, tmp_path):
    """A small model among open_clip's names, and a file of weights for it."""
    return tiny.named_clip(monkeypatch, tmp_path, "tiny-for-teachers")


def test_loading_from_open_clip(named_clip, open_clip_dir, tmp_path, caplog):
    model, file = named_clip
    images = torch.randn(1, 3, 32, 32)
    for source in ("tiny-for-teachers", "open_clip:tiny-for-teachers"):
        loaded = load_teacher(source, file)
        torch.testing.assert_close(loaded.teacher(images), model.encode_image(images))
    assert "has no one published preprocessing" in caplog.text
    assert loaded.text.tokenizer(["a dog"]).shape == (1, 16)
    assert load_teacher(f"open_clip:{open_clip_dir}").teacher.num_blocks == 6
    for name, pretrained, words in (
        ("open_clip:tiny-for-teachers", None, "set pretrained as well"),
        ("open_clip:nothing", "openai", "nothing"),
        ("open_clip:tiny-for-teachers", f"openai={file}", "'openai' is no tag of"),
        ("open_clip:tiny-for-teachers", str(tmp_path / "gone.pt"), "gone.pt"),
        (str(tmp_path), None, "is not the directory of a model"),
    ):
        with pytest.raises(TeacherError, match=words) as error:
            load_teacher(name, pretrained)
        assert "\n" not in str(error.value)


def test_a_coca_becomes_a_complete_clip(tmp_path):
    """Its text tower, logit scale and attention pool come along; its decoder, which no CLIP has, does not."""
    vision = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "output_tokens": True}
    config = {
        "embed_dim": 24,
        "vision_cfg": vision | COCA,
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    coca = open_clip.CoCa(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    with torch.no_grad():
        coca.logit_scale.fill_(1.5)
    directory = tmp_path / "coca"
    directory.mkdir()
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(coca.state_dict(), directory / "open_clip_model.safetensors")
    loaded = load_teacher(str(directory))
    student = build_student(loaded.teacher, StudentOptions(**OPTIONS))
    text = loaded.text
    save_clip(tmp_path / "s", text.clip, student, loaded.teacher.image_processor, text.model_config, text.tokenizer)
    clip, _, tokenizer = load_clip(tmp_path / "s")
    words = tokenizer(["a red circle", "a dog"])
    torch.testing.assert_close(clip.encode_text(words), coca.encode_text(words, normalize=False))
    assert clip.logit_scale == 1.5
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(text.clip.encode_image(images), coca.encode_image(images, normalize=False))
    assert isinstance(clip.visual.model, SparseFormerVisionModel)
    assert clip.encode_image(images).shape == (1, 24)


def test_a_siglip_clip_is_saved_without_a_projection(tmp_path):
    teacher = INHERITED["siglip in open_clip"]()
    student = build_student(teacher, StudentOptions(**OPTIONS))
    config = {"embed_dim": 48, "vision_cfg": {}, "text_cfg": TEXT}
    tiny_vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = open_clip.CustomTextCLIP(48, tiny_vision, TEXT, init_logit_bias=-10.0)
    config["init_logit_bias"] = -10.0
    save_clip(tmp_path, clip, student, teacher.image_processor, config)
    loaded = load_clip(tmp_path)[0]
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.encode_image(images), student.eval()(images).pooler_output)
    assert loaded.logit_bias == -10.0


def test_preprocessing_to_another_size_than_the_towers(tmp_path):
    config = transformers.CLIPConfig(
        vision_config=HF, text_config={**HF, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}, projection_dim=24
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path
    )
    with pytest.raises(TeacherError, match=r"cannot be loaded: .*32"):
        load_teacher(str(tmp_path))


def test_images_of_another_size_than_published(clip_dir):
    model = transformers.CLIPModel.from_pretrained(clip_dir).eval()
    teacher = load_teacher(str(clip_dir), image_size=48).teacher
    assert (teacher.image_size, teacher.num_tokens) == (48, 37)
    images = torch.randn(1, 3, 48, 48)
    expected = model.vision_model(images, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(teacher(images), model.visual_projection(expected))
    dinov2 = load_teacher("timm:vit_small_patch14_dinov2", image_size=42, random=True).teacher
    assert (dinov2.image_size, dinov2.num_tokens) == (42, 10)


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [
        ("transformers:openai/clip-vit-base-patch32", None),
        ("timm:vit_tiny_patch16_224", None),
        ("open_clip:ViT-B-32-quickgelu", "openai"),
    ],
)
def test_a_hub_that_cannot_be_reached(name, pretrained, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match="the hub that has it cannot be reached") as error:
        load_teacher(name, pretrained)
    assert "\n" not in str(error.value)

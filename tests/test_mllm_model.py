"""The whole model: assembling, saving, generating, batches of all kinds, training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import mllm
from data import InputError
from mllm import MLLMForConditionalGeneration, MLLMProcessor
from mllm.assembly import assemble
from mllm.finetuning.data import Collator
from mllm.loading import load_plain
from mllm.parts import encoder_config, load_part
from mllm.prompts import encode_conversation, render_prompt
from mllm.tower import tower_blocks
from projector import complete_options
from tests import tiny
from tests.tiny import assistant, image, user

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": -1}

CONVERSATIONS = [
    {"images": [image(0)], "messages": [user("Is there a red circle?", images=1)]},
    {"images": [], "messages": [user("How many squares are there in all?")]},
    {
        "images": [image(1), image(2)],
        "messages": [user("Compare.", images=2), assistant("Two squares."), user("Which one is large?")],
    },
    {
        "images": [image(3), image(4)],
        "messages": [user("Is it blue?", images=1), assistant("Yes."), user("And this?", images=1)],
    },
]


def load(directory: Path, **options) -> tuple[MLLMForConditionalGeneration, MLLMProcessor]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(directory, **options)
    return model, transformers.AutoProcessor.from_pretrained(directory)


def batch(processor: MLLMProcessor, conversations: list[dict]):
    prompts = [render_prompt(processor, conversation["messages"]) for conversation in conversations]
    images = [image for conversation in conversations for image in conversation["images"]]
    return processor(text=prompts, images=images or None, padding=True, return_tensors="pt")


def files_text(directory: Path) -> str:
    return "".join(file.read_text() for file in directory.iterdir() if file.suffix in (".json", ".jinja"))


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load(model_dir)


# --- assembling -------------------------------------------------------------------------------------------------------


def test_assembled_from_its_parts(model_dir, encoder_dir, language_model_dir, loaded):
    model, processor = loaded
    assert type(model) is MLLMForConditionalGeneration
    assert type(processor) is MLLMProcessor
    parts = {"vision_tower": encoder_dir, "language_model": language_model_dir}
    for name, directory in parts.items():
        expected = transformers.AutoModel.from_pretrained(directory).state_dict()
        got = getattr(model.model, name).state_dict()
        assert set(got) <= set(expected)
        for key, value in expected.items():
            if name == "vision_tower" and key.startswith(("layers.4.", "norm.")):  # behind what the projector reads
                assert key not in got
                continue
            assert torch.equal(got[key][: len(value)], value), key
    assert model.config.image_seq_length == processor.num_image_tokens == tiny.TOKENS
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token is not None
    assert (
        processor.tokenizer.convert_tokens_to_ids("<image>")
        == model.config.image_token_id
        == model.lm_head.out_features - 1
    )
    assert model.generation_config.eos_token_id == [processor.tokenizer.eos_token_id]


def test_text_alone_is_the_language_models_own(loaded, language_model_dir):
    model, processor = loaded
    ids = processor.tokenizer("How many squares are there?", return_tensors="pt").input_ids
    expected = transformers.AutoModelForCausalLM.from_pretrained(language_model_dir)(ids).logits
    assert torch.equal(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)


@pytest.mark.parametrize("layers", [-1, -2, 0, [-3, -2], [2, 0]], ids=str)
@pytest.mark.parametrize("tower", ["clip", "siglip", "dinov2", "registers", "vit", "sparseformer", "pooled"])
def test_the_tower_ends_where_it_is_read(tower, layers, tmp_path, language_model_dir):
    """What is read stays bit for bit the same, nothing else is left, and what was saved whole reads the same."""
    make = {
        "registers": lambda folder: plain_vit(folder, transformers.Dinov2WithRegistersConfig, num_register_tokens=2),
        "vit": lambda folder: plain_vit(folder, transformers.ViTConfig),
        "pooled": lambda folder: tiny.sparseformer(
            folder, attention_pool={"width": 16, "heads": 2, "mlp": True, "norm": False}, projection_dim=8
        ),
    }
    encoder = make.get(tower, getattr(tiny, tower, None))(tmp_path / "encoder")
    whole = load_part(transformers.AutoModel, encoder, encoder_config(encoder), "auto").eval()
    pixels = torch.randn(2, 3, 32, 32)
    states = whole(pixels, output_hidden_states=True).hidden_states
    expected = torch.cat([states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1)
    model, _ = load(tiny.model(tmp_path / "model", encoder, language_model_dir, vision_feature_layer=layers))
    assert torch.equal(model.model.encode(pixels)[1], expected)
    read = model.config.vision_feature_layer
    assert len(tower_blocks(model.model.vision_tower)) == (read if isinstance(read, int) else max(read))
    model.model.encode(pixels)[1].sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.vision_tower.parameters())

    # A directory as it was written when towers were whole.
    file, config = tmp_path / "model" / "model.safetensors", tmp_path / "model" / "config.json"
    weights = {f"model.vision_tower.{name}": value for name, value in whole.state_dict().items()}
    save_file({**load_file(file), **weights}, file, metadata={"format": "pt"})
    vision = json.loads(whole.config.to_json_string())
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "vision_config": vision, "vision_feature_layer": layers})
    )
    again, _ = load(tmp_path / "model")
    assert torch.equal(again.model.encode(pixels)[1], expected)
    assert again.state_dict().keys() == model.state_dict().keys()
    save_file({**load_file(file), "model.vision_tower.more": pixels}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"unexpected: model\.vision_tower\.more$"):
        load_plain(tmp_path / "model")


def test_a_config_of_fewer_blocks_than_weights(tmp_path, clip_dir, language_model_dir):
    file = tiny.model(tmp_path / "model", clip_dir, language_model_dir, vision_feature_layer=-1) / "config.json"
    config = json.loads(file.read_text())
    config["vision_feature_layer"] = config["vision_config"]["num_hidden_layers"] = 1
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"unexpected: model\.vision_tower\..*1\..* and 14 more") as error:
        load_plain(tmp_path / "model")
    one_line(error)


def plain_vit(directory: Path, kind: type[transformers.PreTrainedConfig], **fields: int) -> Path:
    tiny.dinov2(directory)  # for its image processor
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    transformers.AutoModel.from_config(kind(**shape, **fields)).save_pretrained(directory)
    return directory


def test_several_layers_and_no_class_token(tmp_path, encoder_dir, language_model_dir):
    model, _ = assemble(encoder_dir, language_model_dir, vision_feature_layer=[-2, -1], roi_embedding=True)
    pixels = torch.randn(2, 3, 32, 32)
    assert model.model.multi_modal_projector.in_features == 64
    full = model.get_image_features(pixels).pooler_output
    without = model.get_image_features(pixels, vision_feature_select_strategy="default").pooler_output
    for all_tokens, latent in zip(full, without, strict=True):
        torch.testing.assert_close(all_tokens[1:], latent)


@pytest.mark.parametrize(
    ("tower", "projector", "options", "tokens"),
    [
        ("clip_dir", "pixel_shuffle", {}, 4),
        ("clip_dir", "average_pool", {"ratio": 4}, 1),
        ("clip_dir", "resampler", {"queries": 3}, 3),
        ("siglip_dir", "pixel_shuffle", {}, 4),
        ("siglip_dir", "average_pool", {}, 4),
        ("encoder_dir", "resampler", {"queries": 2, "layers": 1, "heads": 4, "width": 24}, 2),
        ("encoder_dir", "roi_mlp", {"frequencies": 4}, tiny.TOKENS),
    ],
)
def test_projectors_with_every_kind_of_encoder(
    request, tmp_path, language_model_dir, tower, projector, options, tokens
):
    """Their options and what they make of the number of tokens survive saving; CLIP's class token is left out."""
    parts = request.getfixturevalue(tower), language_model_dir
    strategy = "default" if tower == "clip_dir" else "full"
    directory = tiny.model(
        tmp_path, *parts, projector=projector, projector_options=options, vision_feature_select_strategy=strategy
    )
    config = json.loads((directory / "config.json").read_text())
    assert config["projector_options"] == complete_options(projector, options)
    assert config["vision_feature_select_strategy"] == strategy
    model, processor = load(directory)
    assert processor.num_image_tokens == config["image_seq_length"] == tokens
    inputs = batch(processor, CONVERSATIONS)
    output = model(**inputs)
    assert torch.isfinite(output.logits).all()
    projected = torch.stack(model.get_image_features(inputs["pixel_values"]).pooler_output)
    assert projected.shape == (5, tokens, 32)
    assert not torch.allclose(projected[0], projected[1])
    model.train()
    model(**samples(processor, False)).loss.backward()  # text alone: as every process of ZeRO needs it
    assert all(p.grad is not None and not p.grad.any() for p in model.model.multi_modal_projector.parameters())


def test_what_reaches_the_projector(loaded):
    """The chosen layer's tokens, and their RoIs behind the whole image for the class token."""
    model = loaded[0].model
    pixels = torch.randn(2, 3, 40, 24)
    seen = model.vision_tower(pixels, output_hidden_states=True)
    rois = torch.cat([torch.tensor([[[0.0, 0, 1, 1]]] * 2), seen.rois], dim=1)
    expected = model.multi_modal_projector(seen.hidden_states[-1], rois)
    assert torch.equal(torch.stack(model.get_image_features(pixels).pooler_output), expected)


def test_chat_template_option(encoder_dir, bpe_language_model_dir, language_model_dir):
    _, processor = assemble(encoder_dir, language_model_dir, chat_template="vicuna")
    assert render_prompt(processor, [user("Hi.")]).startswith("A chat between")
    with pytest.raises(InputError, match="chat_template 'alpaca' is unknown; there are: plain, vicuna"):
        assemble(encoder_dir, language_model_dir, chat_template="alpaca")
    with pytest.raises(InputError, match="no special token ends"):  # <|im_end|> is plain text for this tokenizer
        assemble(encoder_dir, bpe_language_model_dir, chat_template="chatml")


# --- errors of assembling ---------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def broken_copy(directory: Path, to: Path, remove: str) -> Path:
    shutil.copytree(directory, to)
    (to / remove).unlink()
    return to


@pytest.mark.parametrize(("part", "file"), [(0, "preprocessor_config.json"), (1, "tokenizer_config.json")])
def test_parts_without_a_file(tmp_path, encoder_dir, language_model_dir, part, file):
    parts = [encoder_dir, language_model_dir]
    parts[part] = broken_copy(parts[part], tmp_path / "a", file)
    with pytest.raises(InputError, match=f"has no {file}") as error:
        assemble(*parts)
    one_line(error)


def test_damaged_weights(tmp_path, encoder_dir, language_model_dir):
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    file = tmp_path / "encoder" / "model.safetensors"
    weights = load_file(file)
    norm = weights.pop("norm.weight")
    for changed, message in (
        (weights, "missing: norm.weight"),
        ({**weights, "norm.weight": norm[:-1].clone()}, "be l"),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=message) as error:
            assemble(tmp_path / "encoder", language_model_dir)
        one_line(error)


@pytest.mark.parametrize("part", ["encoder", "lm"])
def test_weights_that_are_no_numbers(part, tmp_path, encoder_dir, language_model_dir):
    for name, source in (("encoder", encoder_dir), ("lm", language_model_dir)):
        shutil.copytree(source, tmp_path / name)
    file = tmp_path / part / "model.safetensors"
    weights = load_file(file)
    name = max(weights)
    weights[name].view(-1)[-1] = float("inf")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{tmp_path / part}: {name} holds NaN or infinite values"):
        assemble(tmp_path / "encoder", tmp_path / "lm")


def test_parts_that_do_not_fit(encoder_dir, clip_dir, siglip_dir, language_model_dir):
    cut = {"vision_feature_select_strategy": "default"}
    cases = [
        (encoder_dir, {"vision_feature_layer": 7}, "vision_feature_layer=7 "),
        (clip_dir, {"roi_embedding": True}, "roi_embedding needs the tokens' RoIs"),
        (clip_dir, {"projector": "roi_mlp"}, "roi_mlp needs the tokens' RoIs"),
        (encoder_dir, {"projector": "pixel_shuffle", **cut}, "PixelShuffle merges patches of a grid"),
        (siglip_dir, cut, "this encoder's first is no class token"),
        (clip_dir, {"vision_feature_select_strategy": "patch"}, "vision_feature_select_strategy"),
    ]
    for encoder, options, message in cases:
        with pytest.raises(InputError, match=message) as error:
            assemble(encoder, language_model_dir, **options)
        one_line(error)


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_the_language_model_inside_a_model_that_takes_images(kind, tmp_path, encoder_dir):
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**text, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 400}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**vision, "image_size": 32, "patch_size": 8}
    config = {
        "gemma3": lambda: transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4),
        "llava": lambda: transformers.LlavaConfig(
            text_config={**text, "model_type": "llama"}, vision_config={**vision, "model_type": "clip_vision_model"}
        ),
    }[kind]()
    torch.manual_seed(0)
    whole = transformers.AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path / "lm")
    tiny.bpe_tokenizer(tmp_path / "lm")
    model, _ = load(tiny.model(tmp_path / "model", encoder_dir, tmp_path / "lm"))
    ids = torch.arange(100, 108)[None]
    assert torch.equal(model.eval()(input_ids=ids).logits[..., :400], whole(input_ids=ids).logits)
    assert model.config.text_config.model_type == {"gemma3": "gemma3_text", "llava": "llama"}[kind]


def test_language_model_with_a_head_of_its_own(tmp_path, encoder_dir, language_model_dir):
    directory = tmp_path / "lm"
    shutil.copytree(language_model_dir, directory)
    config = transformers.CohereConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        logit_scale=0.1,
    )
    transformers.CohereForCausalLM(config).save_pretrained(directory)
    with pytest.raises(InputError, match="a 'cohere' has a head of its own"):
        assemble(encoder_dir, directory)


# --- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sentencepiece", "bpe"])
def test_saved_and_reloaded_to_equal_logits(tmp_path, encoder_dir, kind, dtype):
    language_model_dir = tiny.language_model(tmp_path / "lm", kind=kind, tie=kind == "bpe", dtype=dtype)
    model, processor = assemble(encoder_dir, language_model_dir, roi_embedding=True)
    assert {p.dtype for p in model.parameters()} == {dtype}
    inputs = batch(processor, CONVERSATIONS)
    expected = model(**inputs).logits
    assert expected.dtype == dtype
    assert torch.isfinite(expected).all()
    for round in range(2):  # twice: what has been loaded is saved again
        directory = tmp_path / f"model{round}"
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
        assert str(tmp_path) not in files_text(directory)
        model, processor = load(directory)
        again = batch(processor, CONVERSATIONS)
        assert torch.equal(again["input_ids"], inputs["input_ids"])
        assert torch.equal(model(**again).logits, expected)
    tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tied == (kind == "bpe")


def test_whitening_is_measured_saved_and_reloaded(tmp_path, encoder_dir, language_model_dir):
    torch.manual_seed(0)
    plain, processor = assemble(encoder_dir, language_model_dir)
    torch.manual_seed(0)
    images = [tiny.image(seed) for seed in range(20)]
    model, _ = assemble(encoder_dir, language_model_dir, whitening_images=images)
    tokens = model.model.encode(processor.image_processor(images, return_tensors="pt")["pixel_values"])[1]
    white = model.model.multi_modal_projector.whitening(tokens).flatten(0, 1)
    assert white.mean(0).abs().max() < 1e-3
    assert abs(white.std() - 1) < 1e-2
    inputs = batch(processor, CONVERSATIONS)
    expected = model(**inputs).logits
    assert not torch.allclose(expected, plain(**inputs).logits, atol=1e-3)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)[0](**inputs).logits, expected)


def test_options_can_be_switched_on_later(tmp_path, encoder_dir, language_model_dir):
    directory = tiny.model(tmp_path / "model", encoder_dir, language_model_dir)
    model, processor = load(directory)
    inputs = batch(processor, CONVERSATIONS)
    config = transformers.AutoConfig.from_pretrained(directory)
    config.roi_embedding = config.whitening = True
    switched = MLLMForConditionalGeneration.from_pretrained(directory, config=config)
    assert torch.equal(switched(**inputs).logits, model(**inputs).logits)
    assert torch.equal(switched.model.multi_modal_projector.whitening.matrix, torch.eye(32))
    assert torch.count_nonzero(switched.model.multi_modal_projector.roi_embedding.weight) == 0


def test_load_model_of_plain_and_adapter_directories(tmp_path, model_dir):
    model, processor = load(model_dir)
    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    targets = r".*language_model.*\.(q|v)_proj"
    adapted = get_peft_model(
        model, LoraConfig(target_modules=targets, modules_to_save=["multi_modal_projector"], init_lora_weights=False)
    ).eval()
    inputs = batch(processor, CONVERSATIONS)
    expected = adapted(**inputs).logits
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    processor.save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = os.path.relpath(base, adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    plain, _ = mllm.load_model(base, device="cpu")
    answered, processor = mllm.load_model(adapter, device="cpu")
    assert not torch.allclose(plain(**inputs).logits, expected, atol=1e-2)
    torch.testing.assert_close(answered(**batch(processor, CONVERSATIONS)).logits, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="no such directory"):
        mllm.load_model(tmp_path / "nowhere")


# --- answering --------------------------------------------------------------------------------------------------------


def test_images_matter_and_stand_where_they_belong(loaded):
    model, processor = loaded
    one = {"images": [image(1), image(2)], "messages": [user("Compare.", images=2)]}
    other = {**one, "images": one["images"][::-1]}
    logits = [model(**batch(processor, [conversation])).logits for conversation in (one, other)]
    assert not torch.allclose(*logits, atol=1e-3)


def test_unequal_prompts_in_one_batch_answer_as_alone(loaded):
    model, processor = loaded
    inputs = batch(processor, CONVERSATIONS)
    assert (inputs["attention_mask"][:, -1] == 1).all()
    assert (inputs["attention_mask"][:, 0] == 0).any()
    logits = model(**inputs).logits[:, -1]
    generated = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    assert len(set(map(tuple, generated.tolist()))) > 1
    for index, conversation in enumerate(CONVERSATIONS):
        alone = batch(processor, [conversation])
        torch.testing.assert_close(model(**alone).logits[0, -1], logits[index], atol=1e-4, rtol=1e-4)
        words = model.generate(**alone, **GREEDY)[0, alone["input_ids"].shape[1] :]
        assert torch.equal(words, generated[index])


def test_generate_is_greedy_by_hand(loaded):
    model, processor = loaded
    inputs = batch(processor, CONVERSATIONS[2:3])
    generated = model.generate(**inputs, **GREEDY)
    ids = inputs["input_ids"]
    for _ in range(GREEDY["max_new_tokens"]):
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, generated)


def test_beams_and_several_answers(loaded):
    model, processor = loaded
    inputs = batch(processor, CONVERSATIONS)
    beams = model.generate(**inputs, max_new_tokens=4, num_beams=2, num_return_sequences=2)
    assert len(beams) == 2 * len(CONVERSATIONS)
    alone = model.generate(**batch(processor, CONVERSATIONS[3:]), max_new_tokens=4, num_beams=2, num_return_sequences=2)
    width = alone.shape[1]
    assert torch.equal(beams[-2:, -width:], alone)


def test_pipeline_says_what_generate_says(loaded, model_dir):
    model, processor = loaded
    conversation = CONVERSATIONS[3]
    messages, images = [], list(conversation["images"])
    for message in conversation["messages"]:
        parts = [{**p, "image": images.pop(0)} if p["type"] == "image" else p for p in message["content"]]
        messages.append({**message, "content": parts})
    ask = transformers.pipeline("image-text-to-text", model=str(model_dir))
    said = ask(text=messages, return_full_text=False, generate_kwargs=GREEDY)[0]["generated_text"]
    inputs = batch(processor, [conversation])
    words = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert said == processor.decode(words, skip_special_tokens=True)


def test_sdpa_equals_eager(loaded, model_dir):
    _, processor = loaded
    inputs = batch(processor, CONVERSATIONS)
    keep = inputs["attention_mask"].bool()
    logits = [load(model_dir, attn_implementation=name)[0](**inputs).logits[keep] for name in ("sdpa", "eager")]
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)


def test_projector_may_be_of_higher_precision(model_dir):
    """As while a half-precision model's projector is trained in float32."""
    model, processor = load(model_dir, dtype=torch.bfloat16)
    model.model.multi_modal_projector.float()
    logits = model(**batch(processor, CONVERSATIONS)).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


def test_placeholders_and_images_must_agree(loaded):
    model, processor = loaded
    inputs = batch(processor, CONVERSATIONS)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][1:]})


def test_the_configuration_says_what_is_returned(model_dir):
    model, processor = load(model_dir, output_hidden_states=True)
    inputs = batch(processor, CONVERSATIONS[:1])
    outputs = model(**inputs)
    assert len(outputs.hidden_states) == 3
    model.config.return_dict = False
    logits, *_ = again = model(**inputs)
    assert isinstance(again, tuple)
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(model(**inputs, return_dict=True).logits, outputs.logits)
    assert model.generate(**inputs, **GREEDY).shape[1] == inputs["input_ids"].shape[1] + 6


def test_processor(loaded, model_dir, language_model_dir):
    _, processor = loaded
    sizes = processor._get_num_multimodal_tokens(image_sizes=[(480, 640), (32, 32)])
    assert sizes.num_image_tokens == [tiny.TOKENS] * 2
    ids = processor(text="USER: <image> What? ASSISTANT:", images=image())["input_ids"][0]
    assert ids.count(processor.image_token_id) == tiny.TOKENS
    bos = processor.tokenizer.bos_token
    assert processor(text=f"{bos}USER")["input_ids"][0].count(processor.tokenizer.bos_token_id) == 1  # not two
    with pytest.raises(ValueError, match="has no token '<image>'"):
        MLLMProcessor(processor.image_processor, transformers.AutoTokenizer.from_pretrained(language_model_dir), 5)
    with pytest.raises(ValueError, match="num_image_tokens=None"):
        MLLMProcessor(processor.image_processor, processor.tokenizer)


# --- training ---------------------------------------------------------------------------------------------------------


def samples(processor: MLLMProcessor, with_images: bool) -> dict[str, torch.Tensor]:
    asked = user("Is there a red circle?", images=int(with_images))
    images = [image()] if with_images else []
    encoded = encode_conversation(processor, {"images": images, "messages": [asked, assistant("Yes.")]})
    rows = {name: encoded[name][None] for name in ("input_ids", "labels")}
    return {**rows, "pixel_values": encoded["pixel_values"]} if with_images else rows


@pytest.mark.parametrize("with_images", [True, False])
def test_every_weight_on_a_images_way_gets_a_gradient(model_dir, with_images):
    """Also from a batch of text alone, where it is zero: so no process of ZeRO waits for another."""
    model, processor = load(model_dir)
    model.train()
    model(**samples(processor, with_images)).loss.backward()
    on_the_way = dict(model.model.multi_modal_projector.named_parameters())
    on_the_way["encoder"] = model.model.vision_tower.early_convolution.conv.weight
    for name, parameter in on_the_way.items():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0) == with_images, name


def test_gradient_checkpointing_changes_no_gradient(model_dir):
    gradients = []
    for checkpointing in (False, True):
        model, processor = load(model_dir)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**samples(processor, True)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("processes", [1, 2])
def test_text_alone_costs_the_vision_path_only_where_a_process_may_wait(model_dir, monkeypatch, processes):
    """In training, and among several processes also in evaluation, where ZeRO-3 gathers weights as well."""
    model, processor = load(model_dir)
    inputs, calls, encode = samples(processor, False), [], model.model.encode
    expected = model(**inputs).loss
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    monkeypatch.setattr(model.model, "encode", lambda *given: calls.append(1) or encode(*given))
    assert torch.equal(model(**inputs).loss, expected)
    model.generate(input_ids=inputs["input_ids"], **GREEDY)
    assert len(calls) == 2 * (processes - 1)  # of a generation, in its first step only
    torch.testing.assert_close(model.train()(**inputs).loss, expected)
    assert len(calls) == 2 * (processes - 1) + 1


def test_it_learns(model_dir):
    """The projector alone can make the frozen language model say two things about two images."""
    model, processor = load(model_dir)
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(True)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-2)
    talks = [
        {"images": [image(seed)], "messages": [user("What is there?", 1), assistant(answer)]}
        for seed, answer in enumerate(("Yes.", "Two."))
    ]
    inputs = Collator(processor.tokenizer.pad_token_id)([encode_conversation(processor, talk) for talk in talks])
    losses = []
    for _ in range(50):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(0)}).loss > losses[-1] + 0.5

"""Models of a few thousand weights, written to directories as real ones are. Every function returns its directory."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import mllm
from encoder import SparseFormerConfig, SparseFormerVisionModel
from encoder.configuration import bootstrapped_units
from encoder.contrastive.towers import BuiltClip, build_clip, save_open_clip
from encoder.image_processing import SparseFormerImageProcessor
from encoder.training.arguments import tell_deepspeed
from mllm.processing import MLLMProcessor
from mllm.prompts import IGNORE
from mllm.templates import with_images

tell_deepspeed()  # saving imports it

IMAGE_SIZE = 32
TOKENS = 5  # of the tiny SparseFormer, the class token counted
SENTENCES = [
    "USER: Is there a red circle? ASSISTANT: Yes, there is one.",
    "USER: How many squares are there? ASSISTANT: Two squares.",
    "a small blue triangle on a green background",
    "What colour is the large circle? It is yellow.",
    "left of the square, above the star\nand below the cross",
]


def image(seed: int = 0, width: int = 40, height: int = IMAGE_SIZE) -> Image.Image:
    """Coloured noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def user(text: str, images: int = 0) -> dict:
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system(text: str) -> dict:
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def sentencepiece_model() -> bytes:
    """What LLaMA's older repositories have as tokenizer.model: BPE with byte fallback."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=trained,
        model_type="bpe",
        vocab_size=384,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return trained.getvalue()


def sentencepiece_tokenizer(directory: Path) -> transformers.PreTrainedTokenizerBase:
    """LLaMA's kind: SentencePiece BPE with byte fallback, a bos token in front, no padding token."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    tokenizer = transformers.LlamaTokenizer.from_pretrained(str(directory), add_bos_token=True)
    (directory / "tokenizer.model").unlink()  # tokenizer.json holds it all
    tokenizer.save_pretrained(directory)
    return tokenizer


def bpe_tokenizer(
    directory: Path, special: tuple[str, ...] = ("<|endoftext|>",)
) -> transformers.PreTrainedTokenizerBase:
    """GPT's kind: byte-level BPE, no bos, no unknown and no padding token. The first of ``special`` ends a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[0], extra_special_tokens=list(special[1:])
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def language_model(directory: Path, kind: str = "sentencepiece", tie: bool = False, dtype=torch.float32) -> Path:
    """A LLaMA of width 32 and its tokenizer: "sentencepiece" or "bpe"."""
    tokenizer = {"sentencepiece": sentencepiece_tokenizer, "bpe": bpe_tokenizer}[kind](directory)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # large, so that what it says depends on what it sees
    )
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    return directory


def sparseformer_config(**changes) -> SparseFormerConfig:
    """Width 32, 4 latent tokens and a class token, 2 blocks of cortex."""
    values = {
        "units": bootstrapped_units(16, 32, 2, repeats=2),
        "num_latent_tokens": TOKENS - 1,
        "num_sampling_points": 4,
        "early_channels": 8,
        "mixing_hidden_size": 8,
        "attention_head_dim": 8,
        "projection_dim": None,
        "image_size": IMAGE_SIZE,
    }
    return SparseFormerConfig(**{**values, **changes})


def sparseformer(directory: Path, **changes) -> Path:
    """A SparseFormer whose weights are large enough that RoIs move and differ between images."""
    torch.manual_seed(2)
    model = SparseFormerVisionModel(sparseformer_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    processor = SparseFormerImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    processor.save_pretrained(directory)
    return directory


def clip(directory: Path) -> Path:
    """A whole CLIP, text tower included; its vision tower has 16 patches and a class token."""
    torch.manual_seed(3)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**shared, "image_size": IMAGE_SIZE, "patch_size": 8}
    text = {**shared, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    ).save_pretrained(directory)
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=crop).save_pretrained(directory)
    return directory


def siglip(directory: Path) -> Path:
    """A SigLIP's vision tower alone: 16 patches, no class token."""
    torch.manual_seed(4)
    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    transformers.SiglipVisionModel(config).save_pretrained(directory)
    transformers.SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(directory)
    return directory


def dinov2(directory: Path) -> Path:
    """A DINOv2: 16 patches and a class token, layer scale, a token for masked patches."""
    torch.manual_seed(4)
    config = transformers.Dinov2Config(
        hidden_size=32, mlp_ratio=2, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(directory)
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    transformers.BitImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=crop).save_pretrained(directory)
    return directory


def model(directory: Path, encoder_dir: Path, language_model_dir: Path, **options) -> Path:
    """An assembled model and its processor; ``options`` are those of `mllm.assemble`."""
    torch.manual_seed(5)
    assembled, processor = mllm.assemble(encoder_dir, language_model_dir, **options)
    with torch.no_grad():  # a RoI embedding starts at zero; here it is to make a difference
        for parameter in assembled.model.multi_modal_projector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assembled.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def chat_processor(
    tokenizer_dirs: Path, kind: str, template: str, special: tuple[str, ...] = (), takes_images: bool = True
) -> MLLMProcessor:
    """A processor of 3 tokens an image, with a tokenizer of the fixture and special tokens that its template needs."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_dirs / kind)
    if kind == "bpe" and "bos_token" in template:
        tokenizer.bos_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"extra_special_tokens": [*special, "<image>"]}, replace_extra_special_tokens=False)
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=crop)
    chat_template = with_images(template) if takes_images else template
    return MLLMProcessor(images, tokenizer, num_image_tokens=3, chat_template=chat_template)


def learned_stretches(labels: torch.Tensor) -> list[tuple[int, int]]:
    """(start, end) of each unbroken stretch of learned tokens."""
    learned = [False, *(labels != IGNORE).tolist(), False]
    edges = [place for place in range(len(learned) - 1) if learned[place] != learned[place + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def open_clip_model(directory: Path) -> Path:
    """A CLIP in open_clip's format with a vision tower of six blocks."""
    torch.manual_seed(0)
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 32, "layers": 6, "head_width": 16},
        "text_cfg": {"context_length": 16, "width": 16, "layers": 1, "heads": 2},
    }
    clip = build_clip(model)
    set_model_preprocess_cfg(clip, asdict(PreprocessCfg(size=clip.visual.image_size)))
    directory.mkdir(parents=True)
    save_open_clip(directory, BuiltClip(clip, model, None))
    return directory


def named_clip(monkeypatch, directory: Path, name: str, **changes) -> tuple[torch.nn.Module, str]:
    """A small model among open_clip's names, as long as the test runs, and a file of weights for it."""
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    torch.manual_seed(0)
    model = open_clip.create_model(name, **changes).eval()
    torch.save(model.state_dict(), directory / f"{name}.pt")
    return model, str(directory / f"{name}.pt")

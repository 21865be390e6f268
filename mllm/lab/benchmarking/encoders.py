"""Contenders of `mllm bench encoder` and `train`: our encoders and open_clip's dense towers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from encoder import PRESETS, SparseFormerConfig, SparseFormerVisionModel, quantize
from encoder.bootstrapping.stages import parts_of
from mllm.lab.benchmarking.contender import META, Contender, Place, callable_of, counted, random_images
from mllm.lab.benchmarking.timing import Run
from mllm.parts import encoder_config

DEFAULT_ENCODERS = (
    "sparseformer_btsp_openai_clip_large",
    "ViT-L-14",
    "ViT-L-14-336",
    "sparseformer_btsp_openai_clip_base",
    "ViT-B-16",
)
DEFAULT_TRAINED = ("sparseformer_btsp_openai_clip_large", "ViT-L-14")


class Dense(nn.Module):
    """The vision tower of an open_clip model: (B, 3, H, W) -> (B, E)."""

    def __init__(self, name: str, device: torch.device):
        super().__init__()
        source = f"local-dir:{name}" if Path(name).is_dir() else name
        logging.disable(logging.WARNING)  # that there are no weights
        try:
            clip = open_clip.create_model(source, load_weights=False, pretrained_text=False, device=device)
        finally:
            logging.disable(logging.NOTSET)
        self.visual = clip.visual

    def forward(self, images: Tensor) -> Tensor:
        embedded = self.visual(images)
        return embedded[0] if isinstance(embedded, tuple) else embedded  # CoCa's tower gives its tokens too


class Sparse(nn.Module):
    """A SparseFormer: (B, 3, H, W) -> (B, E)."""

    def __init__(self, config: SparseFormerConfig):
        super().__init__()
        self.model = SparseFormerVisionModel(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).representation


class Int8(Sparse):
    """The same with int8 linear layers; ``cosine`` is the least of its embeddings to those of the float layers."""

    IMAGES = 4

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        _frozen(self)
        images = random_images(self.IMAGES, config.image_size, Place(self.model.device))  # type: ignore[arg-type]
        with torch.no_grad():
            exact = self(images)
            quantize(self.model)
            self.cosine = F.cosine_similarity(exact, self(images)).min().item()


def sparse_config(name: str) -> SparseFormerConfig | None:
    """The configuration of a preset, or of a SparseFormer's directory; None of what is neither."""
    if name in PRESETS:
        return SparseFormerConfig(**PRESETS[name].config)
    if (Path(name) / "config.json").is_file():
        config = encoder_config(Path(name))
        if not isinstance(config, SparseFormerConfig):
            raise InputError(
                f"--model {name}: holds a {config.model_type!r}; give a SparseFormer or an open_clip tower"
            )
        return config
    return None


def encoder_contenders(names: list[str], int8: bool = False) -> list[Contender]:
    """One each: images to their embeddings; of ours, on request, one more with int8 linear layers.

    Raises:
        InputError: an unknown name.
    """
    contenders = []
    for name in names:
        contenders.append(_contender(name, _forward, _frozen))
        config = sparse_config(name)
        if int8 and config is not None:
            contenders.append(_in_int8(contenders[-1], config))
    return contenders


def _in_int8(contender: Contender, config: SparseFormerConfig) -> Contender:
    """Counted on the float model: int8 changes no product, and the meta device has no int8 ones."""

    def build(place: Place) -> nn.Module:
        return contender.build(place) if place.device == META else Int8(config)

    def cosine(module: nn.Module) -> float:
        assert isinstance(module, Int8)
        return module.cosine

    return replace(contender, name=f"{contender.name}, int8", build=build, reference=contender.name, cosine=cosine)


def training_contenders(names: list[str]) -> list[Contender]:
    """Two each: forward and backward of the whole encoder, and its part of a bootstrapping step.

    The part of a teacher is a forward pass, that of a student is forward and backward with the later half of its cortex
    and its head frozen (arXiv 2312.01987).

    Raises:
        InputError: an unknown name.
    """
    contenders = []
    for name in names:
        contenders.append(_contender(name, _forward_backward, _trained, ", forward + backward"))
        if contenders[-1].sparse:
            contenders.append(_contender(name, _forward_backward, _student, ", as a student", " bootstrapping"))
        else:
            contenders.append(_contender(name, _forward_autocast, _frozen, ", as a teacher", " bootstrapping"))
    return contenders


def _contender(
    name: str,
    step: Callable[[nn.Module, int, Place], Run],
    mode: Callable[[nn.Module], Any],
    suffix: str = "",
    group: str = "",
) -> Contender:
    config = sparse_config(name)
    trained = step is not _forward

    def build(place: Place) -> nn.Module:
        with torch.device(place.device):
            module: nn.Module = Dense(name, place.device) if config is None else Sparse(config)
        module = module if trained else module.to(place.dtype)
        mode(module)
        return module

    tokens, width = _dense_facts(name) if config is None else (config.num_tokens, config.embed_dim)
    return Contender(name + suffix, config is not None, f"{width}{group}", tokens, build, step, counted(step))


def _dense_facts(name: str) -> tuple[int | None, int]:
    """Tokens and embedding size of an open_clip tower."""
    if not Path(name).is_dir() and name not in open_clip.list_models():
        raise InputError(
            f"--model {name}: neither a directory, nor one of open_clip's models, nor {', '.join(PRESETS)}"
        )
    if Path(name).is_dir() and not (Path(name) / "open_clip_config.json").is_file():
        raise InputError(f"--model {name}: has neither a config.json nor an open_clip_config.json")
    try:
        with META:
            module = Dense(name, META)
        with torch.no_grad():
            embedded = module(random_images(1, module.visual.image_size, Place(META)))
    except (RuntimeError, NotImplementedError) as problem:
        raise InputError(f"--model {name}: cannot be counted: {' '.join(str(problem).split())}") from problem
    positions = getattr(module.visual, "positional_embedding", None)
    return None if positions is None else len(positions), embedded.shape[-1]


def _size_of(module: nn.Module) -> Any:
    """Side of the images, or (height, width)."""
    return module.model.config.image_size if isinstance(module, Sparse) else module.visual.image_size  # type: ignore[union-attr]


def _frozen(module: nn.Module) -> None:
    module.eval().requires_grad_(False)


def _trained(module: nn.Module) -> None:
    module.train().requires_grad_(True)


def _student(module: nn.Module) -> None:
    assert isinstance(module, Sparse)
    _trained(module)
    parts = parts_of(module.model, module.model.config.num_hidden_layers // 2)
    for part in [*parts["late"], *parts["head"]]:
        part.requires_grad_(False)


def _forward(module: nn.Module, batch: int, place: Place) -> Run:
    images, encode = random_images(batch, _size_of(module), place), callable_of(module, place, frozen=True)

    def run() -> Tensor:
        with torch.no_grad():
            return encode(images)

    return run


def _forward_autocast(module: nn.Module, batch: int, place: Place) -> Run:
    images = random_images(batch, _size_of(module), place, torch.float32)
    encode = callable_of(module, place, frozen=True)

    def run() -> Tensor:
        with torch.no_grad(), place.autocast():
            return encode(images)

    return run


def _forward_backward(module: nn.Module, batch: int, place: Place) -> Run:
    images, encode = random_images(batch, _size_of(module), place, torch.float32), callable_of(module, place)

    def run() -> None:
        with place.autocast():
            loss = encode(images).float().square().mean()
        loss.backward()
        module.zero_grad(set_to_none=True)  # no contender holds memory while the next one runs

    return run

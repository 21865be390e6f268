"""Cases of `mllm bench encoder` and `train`: our encoders, open_clip's dense towers, and the published code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError, translated
from encoder import PRESETS, SparseFormerConfig, SparseFormerVisionModel, quantize
from encoder.bootstrapping.stages import student_parts
from mllm.lab.benchmarking.case import META, Case, Place, Run, callable_of, counted, random_images
from mllm.lab.benchmarking.official import Official
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

    def __init__(self, config: SparseFormerConfig, num_tokens: int | None = None):
        super().__init__()
        self.model, self.num_tokens = SparseFormerVisionModel(config), num_tokens

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, num_tokens=self.num_tokens).embedding


class Int8(Sparse):
    """The same with int8 linear layers; ``cosine`` is the least of its embeddings to those of the float layers."""

    IMAGES = 4

    def __init__(self, config: SparseFormerConfig, num_tokens: int | None = None):
        super().__init__(config, num_tokens)
        _frozen(self)
        images = random_images(self.IMAGES, config.image_size, self.model.device)
        with torch.no_grad():
            exact = self(images)
            quantize(self.model)
            self.cosine = F.cosine_similarity(exact, self(images)).min().item()


@dataclass(frozen=True)
class Encoder:
    """An encoder that can be built, before it is.

    Attributes:
        config: None of a dense one.
        tokens: that it has; None of a tower without any.
        num_tokens: that it is asked for; None: its own.
    """

    name: str
    config: SparseFormerConfig | None
    tokens: int | None
    width: int
    image_size: int | Sequence[int]
    num_tokens: int | None = None

    def build(self, device: torch.device) -> nn.Module:
        with torch.device(device):
            return Dense(self.name, device) if self.config is None else Sparse(self.config, self.num_tokens)

    def looking_with(self, count: int) -> Encoder:
        """Returns the same SparseFormer asked for another number of tokens.

        Raises:
            InputError: it cannot look with so many.
        """
        assert self.config is not None
        asked = replace(self, tokens=count, num_tokens=count)
        with translated(f"--tokens {count}: {self.name}"), torch.no_grad():
            asked.build(META)(random_images(1, self.image_size, META))
        return asked


def find_encoder(name: str) -> Encoder:
    """Finds a preset, a SparseFormer's directory, an open_clip tower or a directory of one.

    Raises:
        InputError: ``name`` is none of these.
    """
    config = sparse_config(name)
    if config is not None:
        return Encoder(name, config, config.num_tokens, config.embed_dim, config.image_size)
    if not Path(name).is_dir() and name not in open_clip.list_models():
        raise InputError(
            f"--model {name}: neither a directory, nor one of open_clip's models, nor {', '.join(PRESETS)}"
        )
    if Path(name).is_dir() and not (Path(name) / "open_clip_config.json").is_file():
        raise InputError(f"--model {name}: has neither a config.json nor an open_clip_config.json")
    try:
        with META:
            visual = Dense(name, META).visual
        with torch.no_grad():
            embedded = visual(random_images(1, visual.image_size, META))
    except (RuntimeError, NotImplementedError) as problem:
        raise InputError(f"--model {name}: cannot be counted: {' '.join(str(problem).split())}") from problem
    embedded = embedded[0] if isinstance(embedded, tuple) else embedded
    positions = getattr(visual, "positional_embedding", None)
    tokens = None if positions is None else len(positions)
    return Encoder(name, None, tokens, embedded.shape[-1], visual.image_size)


def sparse_config(name: str) -> SparseFormerConfig | None:
    """Returns the configuration of a preset, or of a SparseFormer's directory; None of what is neither."""
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


def encoder_cases(
    names: list[str], int8: bool = False, official: Path | None = None, tokens: Sequence[int] = ()
) -> list[Case]:
    """Lists one case for each encoder, and of a SparseFormer for each number of tokens: images to their embeddings.

    Args:
        names: as `find_encoder` takes them.
        int8: ours once more with int8 linear layers.
        official: a checkout of the published code; its model of each preset stands beside ours.
        tokens: numbers of them, beside its own, that each SparseFormer looks with too.

    Raises:
        InputError: an unknown name; a directory that is no such checkout; no preset for it; a SparseFormer that cannot
            look with so many tokens, or none where ``tokens`` are given.
    """
    code = None if official is None else Official(official)
    if code is not None and not any(name in PRESETS for name in names):
        raise InputError(f"--official: is timed beside a published model; add --model {DEFAULT_ENCODERS[0]}")
    cases = []
    encoders = [find_encoder(name) for name in names]
    if tokens and all(encoder.config is None for encoder in encoders):
        raise InputError(f"--tokens: is of a SparseFormer; add --model {DEFAULT_ENCODERS[0]}")
    for encoder in encoders:
        counts = [] if encoder.config is None else [count for count in tokens if count != encoder.tokens]
        for asked in (encoder, *map(encoder.looking_with, counts)):
            case = _case(asked, _forward, _frozen)
            cases.append(case)
            if code is not None and asked is encoder and encoder.config is not None and encoder.name in PRESETS:
                cases.append(_official(case, encoder.config, code))
            if int8 and encoder.config is not None:
                cases.append(_int8(case, asked))
    return cases


def _official(case: Case, config: SparseFormerConfig, code: Official) -> Case:
    def build(place: Place) -> nn.Module:
        module = code.build(config).to(place.device, place.dtype)
        _frozen(module)
        return module

    return replace(case, name=f"{case.name}, official code", ours=False, build=build)


def _int8(case: Case, encoder: Encoder) -> Case:
    """Counted on the float model: int8 changes no matmul's size, and the meta device has no int8 ones."""

    def build(place: Place) -> nn.Module:
        assert encoder.config is not None
        return case.build(place) if place.device == META else Int8(encoder.config, encoder.num_tokens)

    def cosine(module: nn.Module) -> float:
        assert isinstance(module, Int8)
        return module.cosine

    return replace(case, name=f"{case.name}, int8", build=build, reference=case.full_name, cosine=cosine)


def training_cases(names: list[str]) -> list[Case]:
    """Lists two cases for each encoder: forward and backward of it all, and its part of a bootstrapping step.

    The part of a teacher is a forward pass, that of a student is forward and backward with the later half of its cortex
    and its head frozen (arXiv 2312.01987).

    Raises:
        InputError: an unknown name.
    """
    cases = []
    for encoder in map(find_encoder, names):
        cases.append(_case(encoder, _forward_backward, _trained, ", forward + backward"))
        if encoder.config is not None:
            cases.append(_case(encoder, _forward_backward, _student, ", as a student", " bootstrapping"))
        else:
            cases.append(_case(encoder, partial(_forward, mixed=True), _frozen, ", as a teacher", " bootstrapping"))
    return cases


def _case(
    encoder: Encoder, step: Callable[..., Run], mode: Callable[[nn.Module], Any], suffix: str = "", group: str = ""
) -> Case:
    def build(place: Place) -> nn.Module:
        module = encoder.build(place.device)
        mode(module)
        return module.to(place.dtype) if step is _forward else module  # a training keeps float32 weights

    run = partial(step, encoder.image_size)
    ours, group = encoder.config is not None, f"{encoder.width}{group}"
    setting = "" if encoder.num_tokens is None else f", {encoder.num_tokens} tokens"
    return Case(encoder.name + suffix, ours, group, encoder.tokens, build, run, counted(run), setting=setting)


def _frozen(module: nn.Module) -> None:
    module.eval().requires_grad_(False)


def _trained(module: nn.Module) -> None:
    module.train().requires_grad_(True)


def _student(module: nn.Module) -> None:
    assert isinstance(module, Sparse)
    _trained(module)
    parts = student_parts(module.model, module.model.config.num_hidden_layers // 2)
    for part in [*parts["late"], *parts["head"]]:
        part.requires_grad_(False)


def _forward(
    size: int | Sequence[int], module: nn.Module, batch: int, place: Place, mixed: bool = False
) -> Callable[[], Tensor]:
    images = random_images(batch, size, place.device, torch.float32 if mixed else place.dtype)
    encode = callable_of(module, place, frozen=True)

    def run() -> Tensor:
        with torch.no_grad(), place.autocast() if mixed else nullcontext():
            return encode(images)

    return run


def _forward_backward(size: int | Sequence[int], module: nn.Module, batch: int, place: Place) -> Run:
    images, encode = random_images(batch, size, place.device), callable_of(module, place)

    def run() -> None:
        with place.autocast():
            loss = encode(images).float().square().mean()
        loss.backward()
        module.zero_grad(set_to_none=True)  # no case holds memory while the next one runs

    return run

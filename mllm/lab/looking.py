"""Do answers depend on what they are about? The fraction of pixel weights inside the one object that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from data.benchmarks.choices import normalize
from data.synthetic.questions import balanced_question
from data.synthetic.scene import SceneConfig
from encoder.image_processing import image_size
from mllm.explanation import Reading, Weigh, explain, occlusion
from mllm.generation import answer, question

logger = logging.getLogger(__name__)


def attention(model: Any, reading: Reading) -> Tensor:
    """Weighs a token by the attention that it gets where a word is predicted, mean of layers and heads: (W, M)."""
    return _attention(model, reading)[0]


def contrast(model: Any, reading: Reading) -> Tensor:
    """Weighs a token by how much more attention it gets there than from all text behind the images: (W, M)."""
    paid, usual = _attention(model, reading)
    return (paid - usual).clamp(min=0)


@torch.no_grad()
def _attention(model: Any, reading: Reading) -> tuple[Tensor, Tensor]:
    """The (W, M) attention of words to image tokens, and that (M,) of all positions behind these."""
    text = model.model.language_model
    usual = text.config._attn_implementation
    text.set_attn_implementation("eager")  # the others return no weights
    try:
        layers = model(inputs_embeds=reading.embeddings[None], output_attentions=True).attentions
    finally:
        text.set_attn_implementation(usual)
    paid = torch.stack([layer[0].mean(dim=0) for layer in layers]).mean(dim=0)
    paid = paid[:, reading.places].to(reading.words)
    words = reading.words / reading.words.sum(dim=1, keepdim=True)
    return words @ paid[-len(reading.answer) - 1 : -1], paid[int(reading.places[-1]) + 1 :].mean(dim=0)


@torch.no_grad()
def zeroing(model: Any, reading: Reading) -> Tensor:
    """Weighs a token as `mllm.explanation.occlusion` does, with zeros in its place instead of a mask: (W, M)."""
    rows = reading.embeddings.repeat(len(reading.places), 1, 1)
    rows[torch.arange(len(rows)), reading.places] = 0
    whole = reading.log_probability(model, reading.embeddings[None])
    return (whole - reading.log_probability(model, rows)).T.clamp(min=0)


def gradient(model: Any, reading: Reading) -> Tensor:
    """Weighs a token by the absolute value of gradient x input of a word's log probability: (W, M)."""
    embeddings = reading.embeddings.detach().requires_grad_()
    words = reading.log_probability(model, embeddings[None])[0]
    gradients = [torch.autograd.grad(word, embeddings, retain_graph=True)[0] for word in words]
    return (torch.stack(gradients) * embeddings.detach())[:, reading.places].sum(dim=-1).abs()


def chance(model: Any, reading: Reading) -> Tensor:
    """Weighs tokens at random: (W, M)."""
    return torch.rand(len(reading.words), len(reading.places))


WEIGHS: Mapping[str, Weigh] = MappingProxyType(
    {each.__name__: each for each in (occlusion, zeroing, gradient, contrast, attention, chance)}
)


def weights_on_objects(
    model: Any,
    processor: Any,
    split: str,
    count: int,
    scale: tuple[float, float] = (1.0, 1.0),
    weighs: Mapping[str, Weigh] = WEIGHS,
) -> dict[str, Any]:
    """Asks about generated images, as large as the model's are, whatever has an answer about one thing in it.

    Questions to which the model says nothing are passed over.

    Args:
        count: how many such questions.
        scale: of the objects, see `data.synthetic.scene.parse_scale`.
        weighs: ways to weigh tokens, by name.

    Returns:
        of all questions, of those that were answered right and wrong, and of each category: how many ``questions``;
        ``area``, the fraction of the image that is what is asked for; and for each way ``inside``, the fraction of the
        pixel weights of the answer's words that is there, and ``hits``, how often the heaviest pixel is.
    """
    height, width = image_size(processor.image_processor)
    config = SceneConfig(height, width, min_scale=scale[0], max_scale=scale[1])
    rows: dict[str, list[dict[str, Any]]] = {"all": [], "right": [], "wrong": []}
    index = 0
    torch.manual_seed(0)
    while len(rows["all"]) < count:
        scene, asked = balanced_question(split, index, config)
        index += 1
        if asked.region is None:
            continue
        mask, talk = torch.from_numpy(scene.mask() == asked.region), question(asked.question, [scene.image()])
        said = answer(model, processor, [talk], max_new_tokens=16)[0]
        if not said:
            continue
        right, row = normalize(said) == normalize(asked.answer), dict[str, Any](area=mask.float().mean().item())
        for name, weigh in weighs.items():
            found = explain(model, processor, talk, said, weigh=weigh, resolution=max(height, width))
            heat = found.heat().mean(dim=0)
            row[name] = {"inside": heat[mask].sum().item(), "hits": mask.flatten()[heat.argmax()].item()}
        for group in ("all", "right" if right else "wrong", asked.category):
            rows.setdefault(group, []).append(row)
        if len(rows["all"]) % 100 == 0:
            logger.info("%d of %d questions", len(rows["all"]), count)
    return {group: _mean(each, weighs) for group, each in rows.items() if each}


def _mean(rows: list[dict[str, Any]], names: Mapping[str, Weigh]) -> dict[str, Any]:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "questions": len(rows),
        "area": mean([row["area"] for row in rows]),
        **{name: {part: mean([row[name][part] for row in rows]) for part in ("inside", "hits")} for name in names},
    }

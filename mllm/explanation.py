"""Where a model looked for an answer: how much each word depends on each image token, and what each token has seen.

Words x tokens times tokens x pixels is words x pixels. The first factor is causal: it is what leaving a token out of
what the language model reads does to a word. The second says where an encoder's token read the image, not what became
of it: tokens exchange what they have read before the language model gets them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data import InputError
from data.errors import shorten
from data.messages import Conversation, Message
from encoder import SparseFormerVisionModel
from encoder.geometry import WHOLE_IMAGE
from encoder.visualize import draw_heat, stack
from mllm.generation import answer as ask
from mllm.generation import as_seen
from mllm.prompts import IGNORE, encode_conversation
from projector.grid import GridProjector

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel

    from mllm.processing import MLLMProcessor

ROWS = 16  # of a batch with tokens left out


@dataclass(frozen=True)
class Reading:
    """What a language model reads before and with an answer: T embeddings, M of them image tokens, A the answer's.

    Attributes:
        embeddings: (T, E), which end with the answer.
        places: (M,), where the image tokens are among them.
        answer: (A,), the tokens of the answer.
        words: (W, A), 1 where a token belongs to a word.
    """

    embeddings: Tensor
    places: Tensor
    answer: Tensor
    words: Tensor

    def log_probability(self, model: Any, embeddings: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns that of each word, (B, W), where (B, T, E) embeddings are read instead, and not what is masked."""
        logits = model(
            inputs_embeds=embeddings, attention_mask=attention_mask, logits_to_keep=len(self.answer) + 1
        ).logits
        tokens = logits[:, :-1].float().log_softmax(-1)[:, torch.arange(len(self.answer)), self.answer]
        return tokens @ self.words.T


Weigh = Callable[[Any, Reading], Tensor]  # of a model: (W, M), at least 0


@dataclass(frozen=True)
class Explanation:
    """Which parts of the images an answer depends on.

    Attributes:
        answer: its text.
        words: its W words.
        totals: (W,), the weights of all tokens together, before they are divided by it: with `occlusion` how many nats
            of log probability a word loses, token by token.
        token_weights: (W, M) for each image, with the M tokens that the language model reads. The weights of a word sum
            to 1 over the tokens of all images, or are 0 where no token weighs anything.
        pixel_weights: (M, h, w) for each image: where each token read it last, on a grid over the whole image; each
            sums to 1. Tokens without sampling points, a class token or a dense tower's, have their RoI evenly.
        rois: (M, 4) for each image: x1, y1, x2, y2 in units of the whole image. A class token's is all that is seen.
    """

    answer: str
    words: list[str]
    totals: Tensor
    token_weights: list[Tensor]
    pixel_weights: list[Tensor]
    rois: list[Tensor]

    def heat(self, image: int = 0) -> Tensor:
        """Returns (W, h, w), the weight of each pixel of an image for each word."""
        return torch.einsum("wm,mhv->whv", self.token_weights[image], self.pixel_weights[image])


@torch.no_grad()
def occlusion(model: PreTrainedModel, reading: Reading) -> Tensor:
    """Weighs a token by how much less likely a word is without it, 0 where it is not: (W, M).

    The token is masked, so that nothing behind it can attend to it; the positions of the others stay.
    """
    length, count = len(reading.embeddings), len(reading.places)
    masks = torch.ones(count, length, dtype=torch.long, device=reading.embeddings.device)
    masks[torch.arange(count), reading.places] = 0
    whole = reading.log_probability(model, reading.embeddings[None])
    without = [
        reading.log_probability(model, reading.embeddings.expand(len(part), -1, -1), part) for part in masks.split(ROWS)
    ]
    return (whole - torch.cat(without)).T.clamp(min=0)


def explain(
    model: PreTrainedModel,
    processor: MLLMProcessor,
    conversation: Conversation,
    answer: str | None = None,
    *,
    weigh: Weigh = occlusion,
    resolution: int = 64,
    max_new_tokens: int = 128,
) -> Explanation:
    """Tells on which parts of the images the words of an answer depend.

    Args:
        conversation: it ends with a user's turn, and has images.
        answer: to explain; None: what the model answers.
        weigh: how image tokens are weighed for words.
        resolution: cells of the grid of pixel weights along an image's longer side.
        max_new_tokens: of an answer that the model gives.

    Raises:
        InputError: no images, no words in the answer; tokens of which nobody knows where they have looked, as those of
            a resampler; and as for `mllm.prompts.encode_conversation`.
    """
    if not conversation["images"]:
        raise InputError("the conversation has no image in which the model could have looked")
    if answer is None:
        answer = ask(model, processor, [conversation], max_new_tokens)[0]
    said: Message = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    views = processor.views([image.size for image in conversation["images"]], conversation.get("image_size"))
    messages = as_seen([*conversation["messages"], said], views)
    batch = encode_conversation(processor, {**conversation, "messages": messages})
    batch = {name: values.to(model.device) for name, values in batch.items()}
    ids, labels = batch.pop("input_ids"), batch.pop("labels")
    end = int((labels != IGNORE).nonzero()[-1])  # the token that ends the turn
    start = int((labels[:end] == IGNORE).nonzero()[-1]) + 1
    words, groups = split_words(processor.tokenizer, ids[start:end].tolist())
    if not words:
        raise InputError("the answer has no words to explain")

    seen = []
    for index, (image, box) in enumerate(zip(conversation["images"], views, strict=True)):
        scale = resolution / max(image.size)
        shape = max(1, round(image.height * scale)), max(1, round(image.width * scale))
        seen.append(_look(model, {name: values[index : index + 1] for name, values in batch.items()}, box, shape))
    features, rois, pixel_weights = zip(*seen, strict=True)

    ids = ids[:end]
    places = (ids == model.config.image_token_index).nonzero()[:, 0]
    embeddings = model.get_input_embeddings()(ids).detach()
    embeddings[places] = torch.cat(features).to(embeddings)
    weights = weigh(model, Reading(embeddings, places, ids[start:], groups.to(embeddings.device))).float().cpu()
    totals = weights.sum(dim=1)
    weights /= totals[:, None].clamp(min=torch.finfo(weights.dtype).tiny)
    token_weights = weights.split([len(each) for each in features], dim=1)
    return Explanation(answer, words, totals, list(token_weights), list(pixel_weights), list(rois))


def split_words(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], Tensor]:
    """Splits tokens at blanks: the words, and (W, A), 1 where one of the A tokens belongs to one of them."""
    ends = [len(tokenizer.decode(ids[: index + 1]).split()) for index in range(len(ids))]
    groups = [list(group) for _, group in itertools.groupby(range(len(ids)), key=lambda index: max(1, ends[index]))]
    words = [tokenizer.decode([ids[index] for index in group]).strip() for group in groups]
    kept = [(word, group) for word, group in zip(words, groups, strict=True) if word]
    members = torch.zeros(len(kept), len(ids))
    for row, (_, group) in zip(members, kept, strict=True):
        row[group] = 1
    return [word for word, _ in kept], members


@torch.no_grad()
def _look(
    model: Any, inputs: dict[str, Tensor], box: Sequence[float], shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Encodes one image.

    Args:
        inputs: what `get_image_features` takes.
        box: what of the image is seen.
        shape: h and w of the grid of pixel weights.

    Returns:
        the projected tokens (M, E), and `Explanation`'s (M, 4) rois and (M, h, w) pixel weights.
    """
    projector, tower = model.model.multi_modal_projector, model.model.vision_tower
    if not projector.keeps_tokens() and not isinstance(projector, GridProjector):
        raise InputError(
            f"projector {model.config.projector!r} makes each of its tokens of all of the encoder's, so none has a "
            "place in the image; explain a model with another projector"
        )
    sparse = isinstance(tower, SparseFormerVisionModel)
    with _sampling_points(tower) if sparse else nullcontext():
        encoded = model.model.get_image_features(**inputs)
    (features,) = encoded.pooler_output
    rois = encoded.rois[0] if sparse else _cells(len(features), getattr(tower.config, "num_register_tokens", 0))
    mask = encoded.get("attention_mask")
    kept = slice(None) if mask is None else mask[0, -len(rois) :]
    origin, size = torch.tensor(box[:2]), torch.tensor(box[2:]) - torch.tensor(box[:2])
    corners = rois[kept].float().cpu().view(-1, 2, 2)
    front = torch.tensor(WHOLE_IMAGE).view(1, 2, 2).expand(len(features) - len(corners), 2, 2)
    boxes = torch.cat([front, corners]) * size + origin
    density = _box_density(boxes, shape)
    if sparse and encoded.sampling_points:
        points = encoded.sampling_points[-1][0, kept].float().cpu()  # with earlier steps' too, less lies on objects
        height, width = inputs["image_sizes"][0] if "image_sizes" in inputs else inputs["pixel_values"].shape[-2:]
        # What a point tells of is about as wide as a pixel of the feature map.
        spread = size * tower.stem.stride / torch.tensor([float(width), float(height)])
        density[len(front) :] = _point_density((points.clamp(0, 1) * size + origin).clamp(0, 1), spread, shape)
    return features, boxes.flatten(1), density


@contextmanager
def _sampling_points(tower: SparseFormerVisionModel) -> Iterator[None]:
    """Has a SparseFormer return its sampling points, whoever calls it."""
    hook = tower.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "output_sampling_points": True}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def _cells(count: int, registers: int) -> Tensor:
    """The RoIs of the patches of a dense tower, row by row, of whose tokens a few in front are none."""
    side = math.isqrt(count)
    if count - side * side > 1 + registers:
        raise InputError(f"{count} tokens of an image are no square grid of patches, so none has a place in the image")
    lines = torch.arange(side) / side
    corners = torch.cartesian_prod(lines, lines).flip(-1)  # y varies slowest
    return torch.cat([corners, corners + 1 / side], dim=-1)


def _box_density(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Spreads (M, 2, 2) boxes, two corners x and y, evenly over what they cover of a grid: (M, h, w)."""
    down, across = (
        torch.linspace(0, 1, count + 1).clamp(boxes[:, :1, axis], boxes[:, 1:, axis]).diff(dim=-1)
        for count, axis in zip(shape, (1, 0), strict=True)
    )
    density = torch.einsum("mh,mv->mhv", down, across)
    return density / density.sum(dim=(1, 2), keepdim=True)


def _point_density(points: Tensor, spread: Tensor, shape: tuple[int, int]) -> Tensor:
    """Spreads each of (M, K, 2) points as a Gaussian of the deviation ``spread`` (2,) in x and y: (M, h, w)."""
    down, across = (
        torch.special.ndtr((torch.linspace(0, 1, count + 1) - points[..., axis, None]) / spread[axis]).diff(dim=-1)
        for count, axis in zip(shape, (1, 0), strict=True)
    )
    density = torch.einsum("mkh,mkv->mhv", down, across)
    return density / density.sum(dim=(1, 2), keepdim=True)


MOST_PANELS = 15  # of words in one drawing


def draw(explanation: Explanation, images: Sequence[Image.Image]) -> Image.Image:
    """Draws for each image where its tokens looked, then where the weight of each word lies.

    Of an answer of more than `MOST_PANELS` words those are left out that depend least on the images; the first panel
    says so.

    Args:
        images: those of the conversation.
    """
    words = explanation.words
    shown = sorted(explanation.totals.argsort(descending=True, stable=True)[:MOST_PANELS].tolist())
    title = "where the tokens looked" + (f"; {len(shown)} of {len(words)} words" if len(shown) < len(words) else "")
    heats = [explanation.heat(index)[shown] for index in range(len(images))]
    # Relative to an even spread, so that images of different sizes can be compared.
    heats = [heat * heat[0].numel() for heat in heats]
    most = torch.stack([heat.amax(dim=(1, 2)) for heat in heats]).amax(dim=0).clamp(min=1e-9)
    drawings = []
    for index, image in enumerate(images):
        panels = []
        for place, word in enumerate(shown):
            share = explanation.token_weights[index][word].sum().item()
            caption = shorten(words[word], 36) + (f"   {share:.0%}" if len(images) > 1 else "")
            panels.append((heats[index][place] / most[place], caption))
        looked = explanation.pixel_weights[index].mean(dim=0)
        drawings.append(draw_heat(image, explanation.rois[index], [(looked / looked.max(), title), *panels]))
    return stack(drawings)

"""Where the conversations come from: generated scenes and files in LLaVA's format, mixed as a recipe lists them."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence, Sized
from typing import Any, Protocol

from torch.utils.data import ConcatDataset

from data.bad_samples import BadSamples, too_many
from data.conversations import Conversations as ConversationsFile
from data.conversations import load_conversations
from data.errors import InputError, shorten
from data.samples import PLACEHOLDER
from data.synthetic import SceneConversations, SceneTurns, scenes_source

CHARACTERS = 4  # of a token, about
_NAMED = 20  # bad samples that are logged

logger = logging.getLogger(__name__)


class Conversations(Protocol):
    """A map-style source of conversations."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def open_conversations(
    sources: Sequence[str],
    image_folder: str | None = None,
    size: tuple[int, int] = (64, 64),
    bad: BadSamples | None = None,
    scene_turns: SceneTurns | None = None,
) -> Conversations:
    """Open one or more sources of conversations as one map-style dataset.

    Args:
        sources: each is `scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]`, or what `load_conversations` takes: the path of a
            .json, .jsonl or .parquet file, or `datasets:NAME_OR_PATH[:SPLIT]`.
        image_folder: where the files' images lie; None is each file's own directory.
        size: height and width of generated images whose source names none.
        scene_turns: what is asked about generated images; None: `SceneTurns`' own values.
        bad: where conversations with broken images are recorded.
    Raises:
        InputError: no source, one that cannot be read, or one that is written wrongly.
    """
    if not sources:
        raise InputError("data: no source is given; write scenes:train:COUNT or the path of a LLaVA JSON file")
    parts: list[Any] = []
    for source in sources:
        if source.startswith("scenes:"):
            parts.append(SceneConversations(*scenes_source(source, size), asked=scene_turns))
        else:
            parts.append(load_conversations(source, image_folder, bad=bad))
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def part_of(conversations: Conversations, index: int) -> tuple[Any, int]:
    """The source of a mix that a sample comes from, and the sample's index there."""
    if not isinstance(conversations, ConcatDataset):
        return conversations, index
    part = bisect_right(conversations.cumulative_sizes, index)
    return conversations.datasets[part], index - (0, *conversations.cumulative_sizes)[part]


def bad_limit(opened: Iterable[Sized], fraction: float) -> int:
    """How many samples may be bad: a fraction of all, rounded up."""
    return math.ceil(fraction * sum(map(len, opened)))


def check_faults(opened: Sequence[Conversations], fraction: float) -> None:
    """Refuse sources of which more samples than `bad_limit` were found to be bad on opening; the first are logged."""
    parts = [part for each in opened for part in (each.datasets if isinstance(each, ConcatDataset) else [each])]
    files = [part for part in parts if isinstance(part, ConversationsFile)]
    count, limit = sum(len(file.faults) for file in files), bad_limit(opened, fraction)
    if count <= limit:
        return
    first = [f"{file.name(index)}: {reason}" for file in files for index, reason in [*file.faults.items()][:_NAMED]]
    for line in first[:_NAMED]:
        logger.warning("a bad sample: %s", shorten(line))
    raise InputError(too_many(count, limit, "`mllm check-data` lists all"))


def rough_lengths(conversations: Conversations, image_tokens: int) -> list[int]:
    """About how many tokens each conversation has, by its characters and images, none of which is opened."""
    if isinstance(conversations, ConcatDataset):
        return [length for part in conversations.datasets for length in rough_lengths(part, image_tokens)]  # type: ignore[arg-type]
    lengths = []
    for index in range(len(conversations)):
        if isinstance(conversations, ConversationsFile):
            texts = conversations.words(index)
            images = sum(text.count(PLACEHOLDER) for text in texts)
        elif isinstance(conversations, SceneConversations):
            images, texts = 1, [text for turn in conversations.turns(index) for text in turn]
        else:
            raise TypeError(f"the lengths of a {type(conversations).__name__} are not known")
        lengths.append(images * image_tokens + sum(map(len, texts)) // CHARACTERS)
    return lengths


def image_size(image_processor: Any) -> tuple[int, int]:
    """Height and width of the images that a model with this image processor sees."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])

"""Where the conversations come from: generated scenes and files in LLaVA's format, mixed as a recipe lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch.utils.data import ConcatDataset

from data import InputError
from data.bad_samples import BadSamples
from data.conversations import Conversations as ConversationsFile
from data.conversations import image_names, load_conversations
from data.scenes import SceneConversations, SceneTurns, scenes_source

CHARACTERS = 4  # of a token, about


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
        sources: each is `scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]`, or the path of a JSON file in LLaVA's format.
        image_folder: where the files' pictures lie; None is each file's own directory.
        size: height and width of generated pictures whose source names none.
        scene_turns: what is asked about generated pictures; None: `SceneTurns`' own values.
        bad: where conversations with broken pictures are recorded.
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


def rough_lengths(conversations: Conversations, picture_tokens: int) -> list[int]:
    """About how many tokens each conversation has, by its characters and pictures, none of which is opened."""
    if isinstance(conversations, ConcatDataset):
        return [length for part in conversations.datasets for length in rough_lengths(part, picture_tokens)]  # type: ignore[arg-type]
    lengths = []
    for index in range(len(conversations)):
        if isinstance(conversations, ConversationsFile):
            record = conversations.record(index)
            pictures, texts = len(image_names(record)), [turn["value"] for turn in record["conversations"]]
        elif isinstance(conversations, SceneConversations):
            pictures, texts = 1, [text for turn in conversations.turns(index) for text in turn]
        else:
            raise TypeError(f"the lengths of a {type(conversations).__name__} are not known")
        lengths.append(pictures * picture_tokens + sum(map(len, texts)) // CHARACTERS)
    return lengths


def picture_size(image_processor: Any) -> tuple[int, int]:
    """Height and width of the pictures that a model with this image processor sees."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    if "height" in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])

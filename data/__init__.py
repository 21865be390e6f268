"""Images, conversations and generated scenes.

Importing this package costs nothing: a public name's module (torch, datasets) is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data.errors import InputError

if TYPE_CHECKING:
    from data.bad_samples import BadSamples, SkippingDataset
    from data.conversations import Conversations, load_conversations
    from data.image_sources import ImageFolder, open_images
    from data.images import open_image
    from data.streams import ImageStream
    from data.synthetic import (
        CLASS_NAMES,
        KINDS,
        TEMPLATES,
        Question,
        Scene,
        SceneCaptions,
        SceneConfig,
        SceneConversations,
        SceneImages,
        SceneObject,
        SceneQuestions,
        ZeroShotScenes,
        blind_accuracy,
        caption,
        captions,
        make_questions,
        make_scene,
        parse_size,
        scene_sentences,
    )
    from data.synthetic.export import export_scenes

__all__ = [
    "CLASS_NAMES",
    "KINDS",
    "TEMPLATES",
    "BadSamples",
    "Conversations",
    "ImageFolder",
    "ImageStream",
    "InputError",
    "Question",
    "Scene",
    "SceneCaptions",
    "SceneConfig",
    "SceneConversations",
    "SceneImages",
    "SceneObject",
    "SceneQuestions",
    "SkippingDataset",
    "ZeroShotScenes",
    "blind_accuracy",
    "caption",
    "captions",
    "export_scenes",
    "load_conversations",
    "make_questions",
    "make_scene",
    "open_image",
    "open_images",
    "parse_size",
    "scene_sentences",
]

_ELSEWHERE = {
    "BadSamples": "data.bad_samples",
    "SkippingDataset": "data.bad_samples",
    "Conversations": "data.conversations",
    "load_conversations": "data.conversations",
    "export_scenes": "data.synthetic.export",
    "open_image": "data.images",
    "ImageFolder": "data.image_sources",
    "open_images": "data.image_sources",
    "parse_size": "data.synthetic",
    "ImageStream": "data.streams",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "data.synthetic")), name)

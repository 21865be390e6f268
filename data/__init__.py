"""Images, captions and conversations from any source, and benchmarks.

Importing this package costs nothing: a public name's module (torch, datasets) is imported when the name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.errors import InputError
from data.lazy import lazy_names

if TYPE_CHECKING:
    from data.bad_samples import BadSamples, SkippingDataset
    from data.conversations import Conversations, load_conversations
    from data.image_folders import ImageFolder
    from data.images import open_image
    from data.sources import (
        LabeledImages,
        open_captioned,
        open_conversations,
        open_images,
        open_labeled,
        register_source,
    )
    from data.streams import ImageStream

_MODULES = {
    "BadSamples": "bad_samples",
    "Conversations": "conversations",
    "ImageFolder": "image_folders",
    "ImageStream": "streams",
    "LabeledImages": "sources",
    "SkippingDataset": "bad_samples",
    "load_conversations": "conversations",
    "open_captioned": "sources",
    "open_conversations": "sources",
    "open_image": "images",
    "open_images": "sources",
    "open_labeled": "sources",
    "register_source": "sources",
}

__all__ = [
    "BadSamples",
    "Conversations",
    "ImageFolder",
    "ImageStream",
    "InputError",
    "LabeledImages",
    "SkippingDataset",
    "load_conversations",
    "open_captioned",
    "open_conversations",
    "open_image",
    "open_images",
    "open_labeled",
    "register_source",
]

__getattr__ = lazy_names(__name__, _MODULES)

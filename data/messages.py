"""What a conversation is in data, prompts, chat and evaluation alike, and an answer in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from PIL import Image


Place = tuple[float, ...]
"""A box (x1, y1, x2, y2) or a point (x, y), in fractions of an image."""


class Part(TypedDict, total=False):
    """An image, a text, or a place in an image."""

    type: Literal["image", "text", "place"]
    text: str  # only a text has it
    place: Place  # only a place has it and
    image: int  # the number of its image in the conversation, from 0


class Message(TypedDict):
    """A turn; the role is system, user or assistant."""

    role: str
    content: list[Part]


class _Options(TypedDict, total=False):
    id: str
    num_tokens: list[int]  # of each image, with a model that leaves the choice
    focus_rois: list[list[list[float]]]  # of each image, where additional tokens look
    image_size: int  # of whole images, about so many pixels squared


class Conversation(_Options):
    """Messages and the images that their image parts stand for, in order."""

    messages: list[Message]
    images: list[Image.Image]


class AnswerRecord(TypedDict):
    """A line of ``answers.jsonl``, in LLaVA's format; the text is empty where there is no answer."""

    question_id: int | str
    prompt: str
    text: str
    answer_id: str
    model_id: str
    metadata: dict[str, str]  # what the id alone may not say of the question, and why there is no answer

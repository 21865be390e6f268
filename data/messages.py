"""What a conversation is in data, prompts, chat and evaluation alike, and an answer in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from PIL import Image


class Part(TypedDict, total=False):
    """An image, or a text."""

    type: Literal["image", "text"]
    text: str  # only a text has it


class Message(TypedDict):
    """A turn; the role is system, user or assistant."""

    role: str
    content: list[Part]


class _Identity(TypedDict, total=False):
    id: str


class Conversation(_Identity):
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

"""What `load_teacher` is asked for and what it gives; the libraries' loaders stand between the two."""

from __future__ import annotations

from dataclasses import dataclass

from encoder.teachers.base import Teacher
from encoder.teachers.text_side import TextSide


@dataclass(frozen=True)
class Wanted:
    """What `load_teacher` was asked for; ``directory``: whether ``name`` is one."""

    name: str
    pretrained: str | None
    directory: bool
    image_size: int | None
    random: bool
    tokenizer: str | None
    text: bool


@dataclass
class LoadedTeacher:
    """A teacher and, if it has one, the text side of its CLIP."""

    teacher: Teacher
    text: TextSide | None = None

"""Classes and templates of zero-shot classification: from files, or those that come with open_clip or the images."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from data.classes import ClassTable, read_class_table, read_lines
from data.errors import InputError

IMAGENET = "imagenet"


def read_classes(name: str | None) -> ClassTable | None:
    """The classes of a file, see `read_class_table`; those of ImageNet; or None for None. Raises InputError."""
    if name is None:
        return None
    return ClassTable(name, [list(IMAGENET_CLASSNAMES)]) if name == IMAGENET else read_class_table(name)


def read_templates(name: str | None, classes: str | None, own: Sequence[str]) -> list[str]:
    """The templates of a file, one a line with {} for the class; open_clip's 80 for ImageNet; or the images' own.

    Args:
        name: a file, "imagenet", or None for what goes with the other two.
        classes: what `read_classes` was given.
        own: what the images' source has, see `data.sources.LabeledImages`.

    Raises:
        InputError: the file cannot be read, is empty, or a template has not one {}, or other braces.
    """
    if name is None:
        if classes != IMAGENET:
            return list(own)
        name = IMAGENET
    if name == IMAGENET:
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    templates = read_lines(name, "template")
    for template in templates:
        if [template.count(part) for part in ("{}", "{", "}")] != [1, 1, 1]:
            raise InputError(f"{name}: the template {template!r} must have {{}} for the class, and no other braces")
    return templates

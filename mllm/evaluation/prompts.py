"""Classes and templates of zero-shot classification: from files, or those that come with open_clip or the scenes."""

from __future__ import annotations

from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from data.errors import InputError
from data.labelled import read_lines
from data.scenes import TEMPLATES, TEXT_TEMPLATES

IMAGENET = "imagenet"
_OWN_TEMPLATES = {"scenes": TEMPLATES, "texts": TEXT_TEMPLATES}  # of the sources of that kind


def read_classes(name: str | None) -> list[str] | None:
    """The classes of a file, one a line; those of ImageNet; or None for None.

    Raises:
        InputError: the file cannot be read, is empty, or names a class twice.
    """
    if name is None:
        return None
    return list(IMAGENET_CLASSNAMES) if name == IMAGENET else read_lines(name, "class")


def read_templates(name: str | None, classes: str | None, source: str) -> list[str]:
    """The templates of a file, one a line with {} for the class; open_clip's 80 for ImageNet; or what suits the source.

    Args:
        name: a file, "imagenet", or None for what goes with the other two.
        classes: what `read_classes` was given. source: of the pictures, see `data.labelled.open_labelled`.

    Raises:
        InputError: the file cannot be read, is empty, or a template has no {} or other braces.
    """
    if name is None:
        own = _OWN_TEMPLATES.get(source.partition(":")[0])
        if own is not None:
            return list(own)
        if classes != IMAGENET:
            return ["a photo of a {}."]
        name = IMAGENET
    if name == IMAGENET:
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    templates = read_lines(name, "template")
    for template in templates:
        words = template.replace("{}", "")
        if words == template or "{" in words or "}" in words:
            raise InputError(f"{name}: the template {template!r} must have {{}} for the class, and no other braces")
    return templates

"""Pictures with class labels, for zero-shot classification: a class per folder, any `datasets` source, or generated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, EachOnce
from data.errors import InputError
from data.files import read_text
from data.pictures import PictureFolder

LABELLED_SOURCES = (
    "a folder with a folder per class, datasets:NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]], "
    "scenes:SPLIT:COUNT[:SIZE] (objects) or texts:SPLIT:COUNT[:SIZE] (words and numbers)"
)


class LabelledFolder(PictureFolder):
    """The pictures below a folder with a folder per class: ``{"image": PIL RGB, "label": index into classes}``.

    As torchvision's ``ImageFolder``: ``classes`` are the names of its folders, sorted; one without pictures counts.

    Raises:
        InputError: no such folder, no picture, or one that lies in no class's folder.
    """

    def __init__(self, folder: str | os.PathLike[str], bad: BadSamples | None = None) -> None:
        super().__init__(folder, bad)
        names = (entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        self.classes = sorted(name for name in names if not name.startswith("."))
        numbers = {name: number for number, name in enumerate(self.classes)}
        parts = [os.path.relpath(file, self.folder).split(os.sep) for file in self.files]
        for file, path in zip(self.files, parts, strict=True):
            if len(path) == 1:
                raise InputError(
                    f"{file}: lies in no class's folder; give a folder with a folder of pictures per class"
                )
        self.labels = [numbers[path[0]] for path in parts]

    def load(self, index: int) -> dict[str, Any]:
        return {**super().load(index), "label": self.labels[index]}


def open_labelled(
    source: str | os.PathLike[str], bad: BadSamples | None = None
) -> tuple[Dataset[Any], list[str] | None]:
    """Labelled pictures as a torch dataset of ``{"image": PIL RGB, "label": int or str}``, and the classes' names.

    Each picture comes once; a bad one is recorded, and None in a map-style dataset, left out of a stream. Labels count
    the names; these are None for a column of bare numbers or of words.

    Args:
        source: one of ``LABELLED_SOURCES``.
        bad: the record of bad pictures to use; by default a new one.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    source = os.fspath(source)
    kind, _, rest = source.partition(":")
    bad = bad or BadSamples()
    if kind in ("scenes", "texts"):
        from data.scenes import CLASS_NAMES, TEXT_NAMES, SceneTexts, ZeroShotScenes, scenes_source

        if source.count(":") > 3:
            raise InputError(f"{source}: shows one thing a picture; give {kind}:SPLIT:COUNT[:SIZE]")
        split, count, config = scenes_source(source)
        if kind == "scenes":
            return ZeroShotScenes(split, count, config), list(CLASS_NAMES)
        return SceneTexts(split, count, config), list(TEXT_NAMES)
    if kind == "datasets":
        from data.streams import PictureStream, read_labelled_dataset

        rows, column, label, names = read_labelled_dataset(rest)
        return PictureStream(rows, column, source, bad, label), names
    path = rest if kind == "folder" else source
    if kind != "folder" and not os.path.isdir(path):
        raise InputError(f"{source}: is no source of labelled pictures; give {LABELLED_SOURCES}")
    folder = LabelledFolder(path, bad)
    return EachOnce(folder), folder.classes


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file without the white space around them; empty ones are left out.

    Raises:
        InputError: the file cannot be read, holds no line, or one twice. ``what`` is what a line is: "class" …
    """
    found: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.strip()
        if words in found:
            raise InputError(f"{path}: lines {found[words]} and {number} are the same {what} {words!r}; leave one out")
        if words:
            found[words] = number
    if not found:
        raise InputError(f"{path}: is empty; write one {what} a line")
    return list(found)


def match_classes(given: Sequence[str] | None, names: Sequence[str] | None) -> tuple[list[str], list[int] | None]:
    """The classes' words, and for each label of the pictures the class that it means.

    Args:
        given: the classes that the user names, if any.
        names: what the pictures' source calls its labels, if it knows. They are looked up in ``given``; where one is
            not there (ImageNet's folders are numbers), the n-th label means the n-th given class. Without ``given``
            they are the classes, underscores read as spaces.

    Returns: the words, and None for the labels where the source knows no names: then they count ``given``, or are it.

    Raises:
        InputError: neither is known, or they do not match.
    """
    if given is None:
        if names is None:
            raise InputError("--classes: the pictures' labels have no names; give a file of classes, one a line")
        return [name.replace("_", " ") for name in names], list(range(len(names)))
    if names is None:
        return list(given), None
    places: dict[str, int] = {}
    for number, name in enumerate(given):
        places.setdefault(name, number)
    missing = [name for name in names if name not in places]
    if not missing:
        return list(given), [places[name] for name in names]
    if len(given) != len(names):
        raise InputError(
            f"--classes: there are {len(given)}, the pictures have {len(names)}, and {missing[0]!r} is none of those "
            "given; name all of them, or one for each in their order"
        )
    return list(given), list(range(len(names)))


def class_of(label: int | str, classes: Sequence[str], meaning: Sequence[int] | None) -> int:
    """The class that a picture's label means; ``classes`` and ``meaning`` are `match_classes`'.

    Raises:
        InputError: it means none.
    """
    if isinstance(label, str):
        if label not in classes:
            raise InputError(f"--classes: {label!r}, the label of a picture, is none of the {len(classes)} classes")
        return classes.index(label)
    count = len(classes) if meaning is None else len(meaning)
    if not isinstance(label, int) or not 0 <= label < count:
        raise InputError(f"label {label!r} of a picture: is no number from 0 to {count - 1}; check the source's labels")
    return label if meaning is None else meaning[label]

"""Images with captions, in the forms in which they are published: one reader each, chosen by what a file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.bad_samples import BadSamples, EachOnce, SkippingDataset
from data.errors import InputError, shorten, translated
from data.files import csv_rows, read_text
from data.image_folders import IMAGE_EXTENSIONS, ImageFolder
from data.json_objects import is_blank, read_object, read_objects
from data.references import open_reference
from data.samples import parse
from data.sources import Given, register_source

_METADATA = ("metadata.jsonl", "metadata.csv")  # in folders as `datasets` reads them
_NAMES = ("image", "file_name", "filepath", "filename", "image_name", "image_path", "path")
_CAPTIONS = ("captions", "caption", "text", "title", "comment")
"""What an image's name and its captions are called in records and in the headings of tables."""


class Found(NamedTuple):
    """One caption: where it stands, the name of its image, and it; both as they are in the file."""

    where: str
    name: Any
    caption: Any


@dataclass(frozen=True)
class _File:
    """Captions to be read.

    Attributes:
        content: a JSON object, places and records of a JSON list or lines, or else text; of a folder its path.
        folder: of the images.
        split: that is wanted.
    """

    path: Path
    content: Any
    folder: Path
    split: str | None


@dataclass(frozen=True)
class Form:
    """A form of captions; ``title`` is what messages call it."""

    title: str
    fits: Callable[[Any], bool]
    read: Callable[[_File], Iterator[Found]]
    has_splits: bool = False


class CaptionedImages(SkippingDataset):
    """Images of a folder and their captions: ``{"image": PIL RGB, "captions": [str, ...], "key": file}``.

    Args:
        folder: where the images are.
        captions: an image's name in ``folder`` -> its captions.
    """

    def __init__(self, folder: Path, captions: dict[str, list[str]], bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.folder, self.names, self.captions = folder, list(captions), list(captions.values())

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> dict[str, Any]:
        image = open_reference(self.names[index], self.folder)
        return {"image": image, "captions": self.captions[index], "key": self.name(index)}

    def name(self, index: int) -> str:
        return str(self.folder / self.names[index])


@register_source("captioned", "captions")
def _open_captions(address: str, given: Given) -> EachOnce:
    path = Path(address)
    folder = Path(given.image_folder or (path if path.is_dir() else path.parent))
    path = next((path / name for name in _METADATA if (path / name).is_file()), path)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images; check the path")
    return EachOnce(CaptionedImages(folder, read_captions(path, folder, given.split, given.bad), given.bad))


def read_captions(path: Path, folder: Path, split: str | None, bad: BadSamples) -> dict[str, list[str]]:
    """An image's name in its folder -> its captions, of a file or folder in one of ``FORMS``.

    What names an image several times adds captions to it. Blank captions are skipped and recorded.

    Args:
        split: of files that hold several, by default "test".

    Raises:
        InputError: with the file and the place in it, for what is of another form, or holds no caption.
    """
    content = path if path.is_dir() else _content(path)
    form = next((form for form in FORMS if form.fits(content)), None)
    if form is None:
        raise InputError(f"{path}: holds no captions in a known form: {'; '.join(form.title for form in FORMS)}")
    if split is not None and not form.has_splits:
        raise InputError(f"--split {split}: {path} is not divided into splits; leave it out")
    captions: dict[str, list[str]] = {}
    for where, name, caption in form.read(_File(path, content, folder, split)):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where} names no image; give its file as one of {', '.join(_NAMES)}")
        if is_blank(caption):
            bad.add(where, "has no caption")
        elif isinstance(caption, str):
            captions.setdefault(name.strip(), []).append(caption.strip())
        else:
            raise InputError(f"{where}: the caption is {shorten(repr(caption), 40)}; give a text or a list of texts")
    if not captions:
        raise InputError(f"{path}: holds no caption; name a file that does")
    return captions


def _content(path: Path) -> Any:
    """A file as `_File` has it."""
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "{":  # one object, or one a line
        with translated(f"{path}: is no JSON", "fix it there"):
            content, end = json.JSONDecoder().raw_decode(text.lstrip())
        if not text.lstrip()[end:].strip() and not any(name in content for name in (*_NAMES, "conversations")):
            return content
    return list(read_objects(path)) if start and start in "{[" else text


def _coco(file: _File) -> Iterator[Found]:
    """``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``."""
    names: dict[str, Any] = {}
    for index, image in enumerate(file.content["images"]):
        if not isinstance(image, dict) or is_blank(image.get("id")) or is_blank(image.get("file_name")):
            raise InputError(f"{file.path}: images[{index}] has not both 'id' and 'file_name'; give both")
        if names.setdefault(_id(image["id"]), image["file_name"]) != image["file_name"]:
            raise InputError(f"{file.path}: images[{index}].id {image['id']!r} is the id of two images; drop one")
    for index, item in enumerate(file.content["annotations"]):
        where = f"{file.path}: annotations[{index}]"
        if not isinstance(item, dict) or "caption" not in item:
            raise InputError(f"{where} has no text 'caption'; give COCO's captions file")
        if _id(item.get("image_id")) not in names:
            raise InputError(f"{where}.image_id {item.get('image_id')!r} is the id of no image")
        yield Found(where, names[_id(item["image_id"])], item["caption"])


def _id(value: Any) -> str:
    """An id as text: 17, 17.0 and "17" are one."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _karpathy(file: _File) -> Iterator[Found]:
    """``{"images": [{"filepath", "filename", "split", "sentences": [{"raw"}]}]}``, with or without "filepath"."""
    images = file.content["images"]
    split = file.split or "test"
    splits = {str(image["split"]) for image in images if isinstance(image, dict) and "split" in image}
    if split not in splits and (splits or file.split):
        raise InputError(f"--split {split}: {file.path} has only {shorten(', '.join(sorted(splits)), 80) or 'none'}")
    for index, image in enumerate(images):
        where = f"{file.path}: images[{index}]"
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
            raise InputError(f"{where} has no list 'sentences'; give Karpathy's file")
        if image.get("split", split) != split:
            continue
        name, parent = image.get("filename"), image.get("filepath")
        if isinstance(name, str) and isinstance(parent, str) and (file.folder / parent).is_dir():
            name = f"{parent}/{name}"  # COCO's; whoever gives val2014 itself has no val2014 in it
        for number, sentence in enumerate(sentences):
            yield Found(f"{where}.sentences[{number}]", name, sentence.get("raw"))


def _by_file_name(file: _File) -> Iterator[Found]:
    """``{"0.jpg": caption or captions}``."""
    for name, captions in file.content.items():
        yield from _each(f"{file.path}: {name}", name, captions)


def _records(file: _File) -> Iterator[Found]:
    """A list or lines of ``{"image", "captions"}``, by these or other names, or of LLaVA's conversations.

    LAVIS has "image" and "caption", Hugging Face's metadata.jsonl "file_name" and "text".
    """
    for where, record in file.content:
        if "conversations" in record:
            yield _conversation(where, record)
            continue
        caption = next((name for name in _CAPTIONS if name in record), None)
        if caption is None:
            raise InputError(f"{where}: has no caption; give it as one of {', '.join(_CAPTIONS)}")
        yield from _each(where, next((record[name] for name in _NAMES if name in record), None), record[caption])


def _conversation(where: str, record: dict[str, Any]) -> Found:
    """The only answer about the only image."""
    sample, problems = parse(record)
    for problem in problems:
        raise InputError(f"{where}: {problem.text}")
    names = sample.images
    answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
    if len(names) != 1 or not isinstance(names[0], str) or len(answers) != 1:
        raise InputError(f"{where} is no caption of an image; give conversations of one image and one answer")
    return Found(where, names[0], answers[0])


def _each(where: str, name: Any, captions: Any) -> Iterator[Found]:
    """One caption, or each of a list."""
    for caption in captions or [None] if isinstance(captions, list) else [captions]:
        yield Found(where, name, caption)


def _tokens(file: _File) -> Iterator[Found]:
    """Flickr's ``0.jpg#0<TAB>caption``; the number may lack."""
    for number, line in enumerate(file.content.splitlines(), 1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab:
                raise InputError(f"{file.path}: line {number} has no tab between name and caption; fix or drop it")
            yield Found(f"{file.path}: line {number}", name.rpartition("#")[0] or name, caption)


def _table(file: _File) -> Iterator[Found]:
    """A heading and rows: open_clip's ``filepath,title``, Flickr8k's ``image,caption``, Flickr30k's with ``|``."""
    separator, headings, name, caption = _heading(file.content) or ("", [], 0, 0)
    (_, _), *rows = csv_rows(file.content, file.path, separator, quoted=separator != "|")
    for line, cells in rows:
        if caption == len(headings) - 1:
            cells[caption:] = [separator.join(cells[caption:])]  # one with commas that nobody quoted
        padded = [*cells, *[""] * len(headings)]
        yield Found(f"{file.path}: line {line}", padded[name], padded[caption])


def _heading(text: Any) -> tuple[str, list[str], int, int] | None:
    """A table's separator, headings, and the columns of names and captions; None if its first line has no such."""
    first = text.strip().partition("\n")[0] if isinstance(text, str) else ""
    for separator in ("\t", "|", ","):
        headings = [cell.strip().strip('"').casefold() for cell in first.split(separator)]
        name = next((headings.index(each) for each in _NAMES if each in headings), None)
        caption = next((headings.index(each) for each in _CAPTIONS if each in headings), None)
        if name is not None and caption is not None:
            return separator, headings, name, caption
    return None


def _beside(file: _File) -> Iterator[Found]:
    """A folder of images, as img2dataset writes it: each with a .txt, or a .json with "caption", of its name."""
    names = [os.path.relpath(image, file.folder) for image in ImageFolder(file.folder).files]
    beside = [[(file.path / name).with_suffix(suffix) for suffix in (".txt", ".json")] for name in names]
    if not any(text.is_file() or record.is_file() for text, record in beside):
        raise InputError(f"{file.path}: no image has a .txt or .json of its name beside it; name a file of captions")
    for name, (text, record) in zip(names, beside, strict=True):
        if text.is_file():
            yield Found(str(text), name, read_text(text))
        elif record.is_file():
            yield from _each(str(record), name, read_object(record, "img2dataset's").get("caption"))
        else:
            yield Found(str(file.folder / name), name, None)


def _holds(content: Any, *tables: str) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in tables)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _begins_with_a_name(content: Any) -> bool:
    name, tab, _ = content.strip().partition("\n")[0].partition("\t") if isinstance(content, str) else ("", "", "")
    return bool(tab) and _is_image(name.rpartition("#")[0] or name)


FORMS = (
    Form("COCO's JSON", lambda content: _holds(content, "images", "annotations"), _coco),
    Form("Karpathy's JSON", lambda content: _holds(content, "images"), _karpathy, has_splits=True),
    Form(
        'JSON {"0.jpg": captions}',
        lambda content: isinstance(content, dict) and bool(content) and all(map(_is_image, content)),
        _by_file_name,
    ),
    Form('JSON list or lines of {"image", "caption"} or LLaVA\'s', lambda content: isinstance(content, list), _records),
    Form("lines 0.jpg#0, tab, caption", _begins_with_a_name, _tokens),
    Form("csv with a heading such as filepath, title", lambda content: _heading(content) is not None, _table),
    Form("folder of 0.jpg with 0.txt or 0.json", lambda content: isinstance(content, Path), _beside),
)

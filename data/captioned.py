"""Pictures with their captions, several each, for retrieval: COCO's or LLaVA's JSON, a plain list, or generated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, EachOnce, SkippingDataset
from data.conversations import image_names, read_records, structural_problems
from data.errors import InputError
from data.files import read_json
from data.images import open_image


class CaptionedPictures(SkippingDataset):
    """Pictures of a folder and their captions: ``{"image": PIL RGB, "captions": [str, ...], "key": file}``.

    Args:
        folder: where the pictures are.
        captions: a picture's name in ``folder`` -> its captions.
    """

    def __init__(self, folder: Path, captions: dict[str, list[str]], bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.folder, self.names, self.captions = folder, list(captions), list(captions.values())

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> dict[str, Any]:
        name = self.name(index)
        return {"image": open_image(name), "captions": self.captions[index], "key": name}

    def name(self, index: int) -> str:
        return str(self.folder / self.names[index])


class CaptionedScenes(Dataset):
    """`SceneCaptions` as `CaptionedPictures` are; captions of equal words are right for each other's pictures."""

    def __init__(self, scenes: Dataset[dict[str, Any]]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.scenes[index]
        return {"image": sample["image"], "captions": [sample["caption"]], "key": sample["caption"]}


def open_captioned(
    source: str | os.PathLike[str], image_folder: str | os.PathLike[str] | None = None, bad: BadSamples | None = None
) -> Dataset[Any]:
    """Pictures and captions as a torch dataset of ``{"image": PIL RGB, "captions": [str, ...], "key": str}``.

    Pictures and captions of equal keys are right for each other. Each picture comes once; None stands for a bad one.

    Args:
        source: ``scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]``, or a file: COCO's captions (``{"images": [{"id",
            "file_name"}], "annotations": [{"image_id", "caption"}]}``), or a list (``.jsonl``: one a line) of
            ``{"image", "captions"}`` or of LLaVA's conversations, where the caption is the only answer about the only
            picture. What names one picture several times adds captions to it.
        image_folder: where the file's pictures are; by default its own folder.
        bad: the record of bad pictures to use; by default a new one.

    Raises:
        InputError: with the file and the place in it, for what is not of one of these forms, or not there.
    """
    source = os.fspath(source)
    if source.startswith("scenes:"):
        from data.scenes import SceneCaptions, scenes_source

        if image_folder is not None:
            raise InputError(f"{source}: has no files of pictures; leave out the folder {os.fspath(image_folder)}")
        return CaptionedScenes(SceneCaptions(*scenes_source(source)))
    path = Path(source)
    folder = path.parent if image_folder is None else Path(image_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures; check the path")
    captions = _coco(path) if _is_object(path) else _list(path)
    if not captions:
        raise InputError(f"{path}: holds no caption; name a file that does")
    return EachOnce(CaptionedPictures(folder, captions, bad))


def _is_object(path: Path) -> bool:
    """Whether the file is one JSON object instead of a list or lines."""
    if path.suffix.lower() == ".jsonl" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(100).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _coco(path: Path) -> dict[str, list[str]]:
    content = read_json(path)
    tables = [content.get("images"), content.get("annotations")]
    if not all(isinstance(table, list) for table in tables):
        raise InputError(f"{path}: is no list, and has no lists 'images' and 'annotations' as COCO's captions have")
    names: dict[Any, str] = {}
    captions: dict[str, list[str]] = {}
    for index, image in enumerate(tables[0]):
        if not isinstance(image, dict) or not _is_text(image.get("file_name")) or not isinstance(image.get("id"), int):
            raise InputError(f"{path}: images[{index}] has no number 'id' and text 'file_name'; give both")
        names[image["id"]] = image["file_name"]
    for index, item in enumerate(tables[1]):
        if not isinstance(item, dict) or not _is_text(item.get("caption")):
            raise InputError(f"{path}: annotations[{index}] has no text 'caption'; give COCO's captions file")
        if item.get("image_id") not in names:
            raise InputError(f"{path}: annotations[{index}].image_id {item.get('image_id')!r} is the id of no image")
        captions.setdefault(names[item["image_id"]], []).append(item["caption"])
    return captions


def _list(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for index, (_, _, record) in enumerate(read_records(path)):
        if isinstance(record, dict) and "conversations" in record:
            name, found = _conversation(record, path, index)
        else:
            name, found = _plain(record, path, index)
        captions.setdefault(name, []).extend(found)
    return captions


def _plain(record: Any, path: Path, index: int) -> tuple[str, list[str]]:
    name, captions = (record.get("image"), record.get("captions")) if isinstance(record, dict) else (None, None)
    if not _is_text(name):
        raise InputError(f"{path}: sample {index} names no 'image'; give {{'image', 'captions'}}")
    if not isinstance(captions, list) or not captions or not all(_is_text(caption) for caption in captions):
        raise InputError(f"{path}: sample {index}: 'captions' is no list of texts; give one or more")
    return str(name), captions


def _conversation(record: dict[str, Any], path: Path, index: int) -> tuple[str, list[str]]:
    for problem in structural_problems(record):
        raise InputError(f"{path}: sample {index}: {problem.text}")
    names = image_names(record)
    answers = [turn["value"].strip() for turn in record["conversations"] if turn["from"] == "gpt"]
    if len(names) != 1 or len(answers) != 1 or not answers[0]:
        raise InputError(
            f"{path}: sample {index} is no caption of a picture; give conversations of one picture and one answer"
        )
    return names[0], answers


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())

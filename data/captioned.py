"""Images with their captions, several each, for retrieval: from a file or folder of captions, or generated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, EachOnce, SkippingDataset
from data.captions import read_captions
from data.errors import InputError
from data.references import open_reference

_METADATA = ("metadata.jsonl", "metadata.csv")  # in folders as `datasets` reads them


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


class CaptionedScenes(Dataset):
    """`SceneCaptions` as `CaptionedImages` are; captions of equal words are right for each other's images."""

    def __init__(self, scenes: Dataset[dict[str, Any]]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.scenes[index]
        return {"image": sample["image"], "captions": [sample["caption"]], "key": sample["caption"]}


def open_captioned(
    source: str | os.PathLike[str],
    image_folder: str | os.PathLike[str] | None = None,
    bad: BadSamples | None = None,
    split: str | None = None,
) -> Dataset[Any]:
    """Images and captions as a torch dataset of ``{"image": PIL RGB, "captions": [str, ...], "key": str}``.

    Images and captions of equal keys are right for each other. Each image comes once; None stands for a bad one.

    Args:
        source: ``scenes:SPLIT:COUNT[:SIZE[:OBJECTS[:TEXT]]]``, or a file or folder in one of `data.captions.FORMS`.
        image_folder: where the images are; by default the file's own folder.
        bad: the record of bad images and captions to use; by default a new one.
        split: of a file that holds several; by default "test".

    Raises:
        InputError: with the file and the place in it, for what is not of one of these forms, or not there.
    """
    source = os.fspath(source)
    if source.startswith("scenes:"):
        from data.synthetic import SceneCaptions, scenes_source

        for flag, value in (("--images", image_folder), ("--split", split)):
            if value is not None:
                raise InputError(f"{flag} {os.fspath(value)}: {source} has no files of images; leave it out")
        return CaptionedScenes(SceneCaptions(*scenes_source(source)))
    path = Path(source)
    folder = (path if path.is_dir() else path.parent) if image_folder is None else Path(image_folder)
    path = next((path / name for name in _METADATA if (path / name).is_file()), path)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images; check the path")
    bad = bad or BadSamples()
    return EachOnce(CaptionedImages(folder, read_captions(path, folder, split, bad), bad))

"""Images with their captions, several each, for retrieval: from a file or folder of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.bad_samples import BadSamples, EachOnce, SkippingDataset
from data.captions import read_captions
from data.errors import InputError
from data.references import open_reference
from data.sources import Given, register_source

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


@register_source("captioned", "captions")
def _open_captions(address: str, given: Given) -> EachOnce:
    path = Path(address)
    folder = Path(given.image_folder or (path if path.is_dir() else path.parent))
    path = next((path / name for name in _METADATA if (path / name).is_file()), path)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images; check the path")
    return EachOnce(CaptionedImages(folder, read_captions(path, folder, given.split, given.bad), given.bad))

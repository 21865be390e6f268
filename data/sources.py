"""Sources of data, chosen by scheme: ``folder:PATH``, ``datasets:NAME:SPLIT``, ``synthetic:train:1000:size=64``.

For each task a scheme has an opener, which is called with what stands behind the colon and with `Given`:

    @register_source("images", "solid")
    def open_solid(address, given):
        return [{"image": Image.new("RGB", (64, 64), color)} for color in address.split("+")]

Then ``solid:red+blue`` is a source like any other, in recipes and on the command line, once this module is imported.
That of an installed package is found by itself, if its pyproject.toml names it:

    [project.entry-points."mllm.plugins"]
    solid = "the_module"
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from torch.utils.data import Dataset

from data.bad_samples import BadSamples, SkippingDataset
from data.errors import InputError, translated
from data.messages import Conversation
from data.registry import Registry

StrPath = str | os.PathLike[str]
Opener = Callable[[str, "Given"], Any]
O = TypeVar("O", bound=Opener)  # noqa: E741

_IMAGES = {"folder": "data.image_folders", "webdataset": "data.shards", "datasets": "data.image_tables"}
_PICTURES = dict.fromkeys(("cliparts", "stamps"), "data.drawings.cliparts")
SOURCES: dict[str, Registry[Opener]] = {
    task: Registry(f"source of {task}", modules | {name: f"data.{name}.sources" for name in ("drawings", "synthetic")})
    for task, modules in (
        ("images", _IMAGES | _PICTURES),
        ("labeled", _IMAGES | {"fashion-mnist": "data.fashion_mnist"}),
        ("captioned", {"captions": "data.captions"} | _PICTURES),
        ("segmented", dict.fromkeys(("ade20k", "cityscapes"), "data.dense")),
        ("boxed", {"coco": "data.dense"}),
        ("conversations", dict.fromkeys(("json", "parquet", "datasets"), "data.conversations")),
    )
}
_PATHS = {"images": "folder", "labeled": "folder", "captioned": "captions", "conversations": "json"}  # task -> scheme
_PATHS |= {"segmented": "ade20k", "boxed": "coco"}


@dataclass(frozen=True)
class Given:
    """What the caller says beside the address; an opener takes what its source can use.

    Attributes:
        bad: the record of bad samples.
        image_size: height and width of the images wanted, for a source that can choose.
        image_folder: where images lie that files name; None: beside each file.
        split: of a file that holds several.
        shuffle_buffer: for streams, the number of samples to draw at random from; 0 leaves the order.
        seed: of that order.
    """

    bad: BadSamples
    image_size: tuple[int, int] | None = None
    image_folder: StrPath | None = None
    split: str | None = None
    shuffle_buffer: int = 0
    seed: int = 0


@dataclass(frozen=True)
class LabeledImages:
    """Images with class labels, and what their source knows of the classes.

    Attributes:
        dataset: of ``{"image": PIL RGB, "label": int or str}``, map-style or a stream; each image comes once, None
            stands for a bad one.
        class_names: label n is the n-th; None for a column of bare numbers or of words.
        templates: of the sentences that zero-shot classification fills with a class.
        numbered: whether the source itself numbers its labels; folders are merely sorted.
    """

    dataset: Dataset[Any]
    class_names: Sequence[str] | None
    templates: Sequence[str] = ("a photo of a {}.",)
    numbered: bool = True


@dataclass(frozen=True)
class DenseImages:
    """Images with a class for every pixel, or with a box for every object.

    Attributes:
        dataset: map-style, of ``{"image": PIL RGB, "mask": PIL L}``, 255 where a pixel does not count, or of
            ``{"image", "boxes": [[x1, y1, x2, y2], ...] in fractions of the image, "labels": [int, ...]}``.
        class_names: class n is the n-th.
    """

    dataset: Dataset[Any]
    class_names: Sequence[str]


class Conversations(Protocol):
    """A source of conversations, which are dicts as `data.conversations.Conversations` documents them."""

    @property
    def faults(self) -> Mapping[int, str]:
        """Samples that are bad as they are stored, and why; every one is looked at, no image is opened."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Conversation:
        """Returns sample ``index`` itself. Raises InputError if it is bad."""

    def name(self, index: int) -> str:
        """Returns what to call sample ``index`` in a report."""

    def words(self, index: int) -> list[str]:
        """Returns the texts of sample ``index``, with ``<image>`` for each image; no image is opened."""


class MixedConversations(SkippingDataset[Conversation]):
    """Several sources of conversations, one behind the other."""

    def __init__(self, parts: Sequence[Conversations], bad: BadSamples | None = None) -> None:
        super().__init__(bad)
        self.parts, self.ends = parts, list(accumulate(map(len, parts)))

    @property
    def faults(self) -> dict[int, str]:
        starts = (0, *self.ends)
        return {starts[n] + i: why for n, part in enumerate(self.parts) for i, why in part.faults.items()}

    def __len__(self) -> int:
        return self.ends[-1]

    def _part(self, index: int) -> tuple[Conversations, int]:
        part = bisect_right(self.ends, index)
        return self.parts[part], index - (0, *self.ends)[part]

    def load(self, index: int) -> Conversation:
        part, place = self._part(index)
        return part.load(place)

    def name(self, index: int) -> str:
        part, place = self._part(index)
        return part.name(place)

    def words(self, index: int) -> list[str]:
        part, place = self._part(index)
        return part.words(place)


def register_source(task: str, *schemes: str) -> Callable[[O], O]:
    """Returns a decorator that makes a function the opener of ``task`` for sources of the schemes.

    It returns what the function ``open_TASK`` of this module documents, of one source.

    Args:
        task: "images", "labeled", "captioned", "segmented", "boxed" or "conversations".

    Raises:
        ValueError: the task has such a scheme already.
    """

    def decorator(opener: O) -> O:
        for scheme in schemes:
            SOURCES[task].register(scheme, opener)
        return opener

    return decorator


def open_images(
    source: StrPath, *, bad: BadSamples | None = None, shuffle_buffer: int = 0, seed: int = 0
) -> Dataset[dict[str, Any]]:
    """Opens images as a torch dataset of ``{"image": PIL RGB}``.

    | source | what | dataset |
    |---|---|---|
    | ``PATH`` or ``folder:PATH`` | every image below a folder | map-style, `data.image_folders.ImageFolder` |
    | ``webdataset:GLOB[?image=FIELD]`` | tar shards: files or URLs, see `data.shards` | `data.streams.ImageStream` |
    | ``datasets:NAME_OR_PATH[:SPLIT[:COLUMN]]`` | local, or on the Hugging Face hub | `data.streams.ImageStream` |
    | ``synthetic:SPLIT:COUNT[:KEY=VALUE ...]`` | generated, see `data.synthetic.sources` | map-style |
    | ``drawings:SPLIT[:COUNT][:KEY=VALUE ...]`` | composed of real drawings, see `data.drawings.sources` | map-style |
    | ``cliparts:[COUNT]``, ``stamps:[COUNT]`` | see `data.drawings.cliparts` | map-style |

    SPLIT is train or the only one by default, COLUMN the first that holds images; a hub NAME may be ``NAME@CONFIG``.
    Streams are read as they come, nothing is downloaded ahead. `data.streams.ImageStream` says how they are divided
    over processes and DataLoader workers. Bad images are skipped and recorded in the dataset's ``bad``.

    Args:
        source: see the table.
        bad: the record of bad images to use; by default a new one.
        shuffle_buffer: for streams, the number of (encoded) images to draw at random from, and shards in random
            order; 0 leaves the order. Map-style datasets are shuffled by their sampler.
        seed: of the stream's order; each epoch has an order of its own.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    return _open("images", source, bad, shuffle_buffer=shuffle_buffer, seed=seed)


def open_labeled(
    source: StrPath, bad: BadSamples | None = None, image_size: tuple[int, int] | None = None
) -> LabeledImages:
    """Opens images with class labels.

    Args:
        source: a folder with a folder per class, ``webdataset:GLOB[?image=FIELD]`` with a file ``.cls`` beside each
            image, ``datasets:NAME_OR_PATH[:SPLIT[:COLUMN[:LABEL]]]``, ``fashion-mnist:SPLIT[:COUNT]``, or
            ``synthetic:SPLIT:COUNT[:KEY=VALUE ...]`` and ``drawings:SPLIT[:COUNT][:KEY=VALUE ...]``.
        bad: the record of bad images to use; by default a new one.
        image_size: height and width, for a source that can choose.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    opened: LabeledImages = _open("labeled", source, bad, image_size=image_size)
    return opened


def open_captioned(
    source: StrPath, image_folder: StrPath | None = None, bad: BadSamples | None = None, split: str | None = None
) -> Dataset[Any]:
    """Opens images and captions as a torch dataset of ``{"image": PIL RGB, "captions": [str, ...], "key": str}``.

    Images and captions of equal keys are right for each other. Each image comes once; None stands for a bad one.

    Args:
        source: a file or folder in one of `data.captions.FORMS`, or ``synthetic:SPLIT:COUNT[:KEY=VALUE ...]``.
        image_folder: where the images are; by default the file's own folder.
        bad: the record of bad images and captions to use; by default a new one.
        split: of a file that holds several; by default "test".

    Raises:
        InputError: with the file and the place in it, for what is not of one of these forms, or not there.
    """
    return _open("captioned", source, bad, image_folder=image_folder, split=split)


def open_segmented(source: StrPath, bad: BadSamples | None = None) -> DenseImages:
    """Opens images with a mask each.

    Args:
        source: ``ade20k:FOLDER:SPLIT`` or ``cityscapes:FOLDER:SPLIT``, split train or validation, as the data sets are
            unpacked; ``drawings:SPLIT[:COUNT]...``, whose classes are emojibase's groups, ``synthetic:SPLIT:COUNT...``.
        bad: the record of bad images to use; by default a new one.

    Raises:
        InputError: for a source of another form, or one that is not there.
    """
    opened: DenseImages = _open("segmented", source, bad)
    return opened


def open_boxed(source: StrPath, bad: BadSamples | None = None) -> DenseImages:
    """Opens images with boxes: ``coco:FILE.json:FOLDER``, ``drawings:...``, ``synthetic:...``; see `open_segmented`."""
    opened: DenseImages = _open("boxed", source, bad)
    return opened


def open_conversations(
    sources: Sequence[str],
    image_folder: StrPath | None = None,
    image_size: tuple[int, int] | None = None,
    bad: BadSamples | None = None,
) -> MixedConversations:
    """Opens one or more sources of conversations as one.

    Args:
        sources: each a file that `data.load_conversations` takes, ``datasets:NAME_OR_PATH[:SPLIT]`` or
            ``synthetic:SPLIT:COUNT[:KEY=VALUE ...]``.
        image_folder: where the files' images lie; by default each file's own folder.
        image_size: height and width, for a source that can choose.
        bad: where conversations with broken images are recorded.

    Raises:
        InputError: no source, one that cannot be read, or one that is written wrongly.
    """
    if not sources:
        raise InputError("data: no source is given; name a file of conversations in LLaVA's format")
    given = {"image_folder": image_folder, "image_size": image_size}
    return MixedConversations([_open("conversations", source, bad, **given) for source in sources], bad)


def refuse_files(source: str, given: Given) -> None:
    """Raises InputError if it is said where the files of a source's images are that has none."""
    for flag, value in (("--images", given.image_folder), ("--split", given.split)):
        if value is not None:
            raise InputError(f"{flag} {value}: {source} has no files of images; leave it out")


def parse_options(
    source: str, options: Mapping[str, Callable[[str], Any]], form: str
) -> tuple[list[str], dict[str, Any]]:
    """Splits ``SCHEME:train:1000:size=64`` into ``["train", "1000"]`` and ``{"size": 64}``.

    Args:
        options: name -> what makes a value of its text.
        form: how such a source is written, for messages.

    Raises:
        InputError: an option is unknown, or its value cannot be read.
    """
    parts = source.split(":")[1:]
    values = {}
    for name, _, text in (part.partition("=") for part in parts if "=" in part):
        if name not in options:
            raise InputError(f"{source}: there is no option {name!r}; there are {', '.join(options)}")
        with translated(f"{source}: {name}", f"write {form}"):
            values[name] = options[name](text)
    return [part for part in parts if "=" not in part], values


def _open(task: str, source: StrPath, bad: BadSamples | None, **given: Any) -> Any:
    """Opens a source by its scheme; what has none is a path."""
    source = os.fspath(source)
    scheme, colon, address = source.partition(":")
    openers = SOURCES[task]
    if not colon or scheme not in openers:
        if not source or (re.match(r"[\w-]{2,}:", source) and not os.path.exists(source)):
            known = ", ".join(f"{name}:" for name in openers)
            raise InputError(f"{source}: is no source of {task}; give a path, or one that begins with {known}")
        scheme, address = _PATHS[task], source
    return openers[scheme](address, Given(bad or BadSamples(), **given))

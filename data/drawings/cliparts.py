"""Other drawings with words of people: public-domain cliparts, and Tux Paint's stamps to measure on.

``cliparts:[COUNT]`` and ``stamps:[COUNT]``, with ``:size=N`` and ``:seed=N``, give images and captions, each picture in
its turn; without COUNT each comes once. Cliparts lie anywhere on backgrounds as drawings do; stamps, many of them
photos, lie large on white: they are under the GPL, so nothing that is shipped may be trained on them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from PIL import Image

from data.drawings.backgrounds import make_background
from data.drawings.pictures import Job, Pictures, open_pictures
from data.errors import InputError
from data.limits import check_range
from data.materials import MATERIALS, fetch
from data.sources import Given, parse_options, register_source
from data.synthetic.scene import parse_size
from data.synthetic.vocabulary import between, shuffled, stream

if TYPE_CHECKING:
    from torch.utils.data import Dataset
else:  # any object with a length and items does, and torch is slow to import
    Dataset = object

CLIPARTS, STAMPS = "cliparts", "stamps"
_SKIPPED = ("shapes", "special", "computer/icons", "signs_and_symbols/flags", "signs_and_symbols/led", "unsorted")
_LARGEST = 500_000  # bytes of an SVG; larger ones hold photos, or take seconds
_DC, _RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def _cliparts() -> tuple[dict[str, Any], list[Job]]:
    """The public-domain cliparts that show things; "words" are title and keywords."""
    root = fetch("openclipart") / "usr" / "share" / "openclipart" / "svg"
    jobs = []
    for file in sorted(root.rglob("*.svg")):
        folder = file.parent.relative_to(root).as_posix()
        text = "" if folder.startswith(_SKIPPED) else file.read_text(encoding="utf-8", errors="replace")
        if 0 < len(text) <= _LARGEST and "publicdomain" in text.casefold() and (words := _title(text)):
            jobs.append(Job(file, {"words": words, "folder": folder}))
    return {"license": "public domain"}, jobs


def _title(svg: str) -> list[str]:
    """The title of an SVG and its keywords, in lower case; empty without a title."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return []
    titles = [element.text or "" for element in root.iter(f"{_DC}title")][:1]
    title = " ".join(re.sub(r"[^a-z' -]", " ", "".join(titles).casefold().replace("_", " ")).split())
    title = re.sub(r"^clipart by .* - ", "", title)
    keywords = [(element.text or "").strip().casefold() for element in root.iter(f"{_RDF}li")]
    keywords = [word for word in keywords if re.fullmatch(r"[a-z][a-z ]+", word) and word not in (title, "unsorted")]
    return [title, *dict.fromkeys(keywords)] if len(title) > 2 else []


def _stamps() -> tuple[dict[str, Any], list[Job]]:
    """Stamps with captions; "photo" tells the photos from drawings, letters and coins are left out."""
    root = fetch("tuxpaint") / "usr" / "share" / "tuxpaint" / "stamps"
    jobs = []
    for text in sorted(root.rglob("*.txt")):
        found = [text.with_suffix(suffix) for suffix in (".svg", ".png") if text.with_suffix(suffix).is_file()]
        caption = text.read_text(encoding="utf-8").partition("\n")[0].strip()
        folder = text.parent.relative_to(root).as_posix()
        if found and caption and not folder.startswith(("symbols/alphabets", "symbols/math", "symbols/money")):
            photo = found[0].suffix == ".png" and "cartoon" not in folder and not folder.startswith("symbols")
            jobs.append(Job(found[0], {"words": [caption], "folder": folder, "photo": photo}))
    return {"license": MATERIALS["tuxpaint"].license}, jobs


_MADE: dict[str, tuple[str, Callable[[], tuple[dict[str, Any], list[Job]]]]] = {
    CLIPARTS: ("openclipart", _cliparts),
    STAMPS: ("tuxpaint", _stamps),
}


@functools.cache
def load_pictures(name: str) -> Pictures:
    """The pictures of a collection, once for a process; for a machine they are rendered once."""
    material, jobs = _MADE[name]
    return open_pictures(f"{name}-{MATERIALS[material].version.replace(':', '_')}", jobs)


class Collection(Dataset):
    """Pictures one by one: ``{"image": PIL, "captions": [str], "key": str}``; equal captions have equal keys."""

    def __init__(self, name: str, count: int, size: tuple[int, int], seed: int = 0) -> None:
        self.name, self.size, self.seed = name, size, seed
        pictures = load_pictures(name)
        self.order = shuffled(stream(name), range(len(pictures)))
        self.count = count or len(pictures)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.count <= index < self.count:
            raise IndexError(f"{index} of {self.count} items")
        index %= self.count
        rng, words = stream(self.name, self.seed, index), self._facts(index)["words"]
        keywords = shuffled(rng, words[1:])[:3]
        caption = words[0] if not keywords or rng.random() < 0.5 else f"{words[0]} ({', '.join(keywords)})"
        return {"image": self.image(index), "captions": [caption], "key": caption}

    def _facts(self, index: int) -> dict[str, Any]:
        return load_pictures(self.name).facts[self.order[index % len(self.order)]]

    def image(self, index: int) -> Image.Image:
        """The image of item ``index``, RGB."""
        rng = stream(self.name, "image", self.seed, index)
        if self.name == STAMPS:
            background, scale, place = Image.new("RGB", self.size[::-1], "white"), 0.94, (0.5, 0.5)
        else:
            background = make_background(rng, *self.size)
            scale, place = between(rng, 0.5, 0.98), (rng.random(), rng.random())
        return pasted(background, load_pictures(self.name)[self.order[index % len(self.order)]], scale, place)


def pasted(background: Image.Image, picture: Image.Image, scale: float, place: tuple[float, float]) -> Image.Image:
    """A picture on a background, of whose sides it fills at most ``scale``; ``place`` is (0.5, 0.5) in the middle."""
    factor = scale * min(side / of for side, of in zip(background.size, picture.size, strict=True))
    width, height = (max(1, round(factor * side)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    room = (background.width - width, background.height - height)
    background.paste(picture, (round(place[0] * room[0]), round(place[1] * room[1])), picture)
    return background


def _open(name: str, address: str, given: Given) -> Collection:
    source, form = f"{name}:{address}", f"{name}:[COUNT][:size=N][:seed=N], for example {name}:1000:size=224"
    parts, options = parse_options(source, {"size": parse_size, "seed": int}, form)
    count = "".join(parts)
    if len(parts) > 1 or not re.fullmatch(r"\d{0,9}", count):
        raise InputError(f"{source}: {name} are written {form}")
    size = options.pop("size", None) or given.image_size or (224, 224)
    check_range("size", min(size), 16, 8192)
    check_range("size", max(size), 16, 8192)
    return Collection(name, int(count or 0), size, **options)


@register_source("images", CLIPARTS)
@register_source("captioned", CLIPARTS)
def _open_cliparts(address: str, given: Given) -> Collection:
    return _open(CLIPARTS, address, given)


@register_source("images", STAMPS)
@register_source("captioned", STAMPS)
def _open_stamps(address: str, given: Given) -> Collection:
    return _open(STAMPS, address, given)

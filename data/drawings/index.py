"""Which drawings there are, what each shows, and who may train on it.

The drawings are those of emoji, by several artists' icon sets; names, synonyms and tags of what they show come from
emojibase, which also tells which icons of different sets show the same thing. Nothing depends on the order of files.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data.drawings.pictures import Job, Pictures, open_pictures
from data.errors import InputError
from data.files import read_json
from data.materials import MATERIALS, fetch
from data.synthetic.vocabulary import listing

ARTISTS = ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "emojione", "streamline-emojis")
UNSEEN = "fxemoji"
"""The artist whom nobody trains on."""
FLUENT_3D = "fluent-3d"
LICENSES = ("Apache-2.0", "MIT", "CC-BY-4.0")
"""Of art to train on. Whoever publishes a model names the artists; share-alike art is left out."""
SPLITS = ("train", "validation", "artist", "names")
THINGS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
"""The groups of names that everyday things have; the others are faces, people and symbols."""
GROUPS = (*THINGS, "smileys-emotion", "people-body", "symbols")
_SHORTCODES = ("cldr", "emojibase", "github", "joypixels", "iamcal")
_VERSION = "-".join(MATERIALS[name].version for name in ("iconify", "emojibase", "fluent-3d"))
_WITHOUT = re.compile(r"\b(man|men|woman|women|person|people|face|boy|girl|with|and|facing|right|left)\b|[^a-z ]")


@dataclass(frozen=True)
class Name:
    """What a drawing shows.

    Attributes:
        text: "red apple".
        synonyms: other names of the same.
        tags: words that have to do with it.
        group: one of emojibase's groups, such as "food-drink".
        kind: one of its subgroups, such as "food-fruit".
        seen: whether it belongs to training; a tenth of the names does not.
        rank: 0 for the most common one, as far as the sets tell.
    """

    number: int
    text: str
    synonyms: tuple[str, ...]
    tags: tuple[str, ...]
    group: str
    kind: str
    seen: bool
    rank: int

    @property
    def answers(self) -> frozenset[str]:
        """What names it right, in lower case."""
        return frozenset(text.casefold() for text in (self.text, *self.synonyms))


@dataclass(frozen=True)
class Drawing:
    """One artist's drawing of a name.

    Attributes:
        number: of its picture.
        colors: as `data.drawings.rendering.colors` has them.
        extents: width and height by angle, in the longer side when it is upright.
    """

    number: int
    name: Name
    artist: str
    colors: tuple[tuple[str, float], ...]
    extents: tuple[tuple[float, float], ...]

    @property
    def color(self) -> str | None:
        """Its main color; None where there are several, or one that has no common word."""
        (color, first), (_, second), *_ = (*self.colors, ("", 0.0), ("", 0.0))
        return color if first >= 0.5 and second <= 0.6 * first and color != "beige" else None


class Index:
    """All drawings of one machine.

    Attributes:
        names: in the order of emojibase.
        drawings: by number.
        credits: title, author and license of each artist's set.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.credits: dict[str, dict[str, str]] = pictures.about["credits"]
        self.names = [_name(number, row) for number, row in enumerate(pictures.about["names"])]
        self.drawings = [
            Drawing(number, self.names[fact["name"]], fact["artist"], _pairs(fact["colors"]), _pairs(fact["extents"]))
            for number, fact in enumerate(pictures.facts)
        ]

    def of(self, split: str) -> dict[Name, list[Drawing]]:
        """The drawings of a split by what they show, in the order of the names. Raises InputError if there is none."""
        if split not in SPLITS:
            raise InputError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        found: dict[Name, list[Drawing]] = {name: [] for name in self.names}
        for drawing in self.drawings:
            if (drawing.artist == UNSEEN) == (split == "artist") and drawing.name.seen == (split != "names"):
                found[drawing.name].append(drawing)
        return {name: drawings for name, drawings in found.items() if drawings}


def _name(number: int, row: dict[str, Any]) -> Name:
    row = {**row, "synonyms": tuple(row["synonyms"]), "tags": tuple(row["tags"])}
    return Name(number, *(row[field.name] for field in fields(Name)[1:]))


def _pairs(rows: list[list[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in rows)


@functools.cache
def load_index() -> Index:
    """The index, once for a process; for a machine it is built once, from packages that are fetched."""
    return Index(open_pictures(f"drawings-{_VERSION}", _jobs))


def _jobs() -> tuple[dict[str, Any], list[Job]]:
    """All names, and all drawings of artists whose license allows it."""
    names = _names(fetch("emojibase"))
    shown: list[tuple[int, str, str | Path]] = []
    credits = {FLUENT_3D: {"title": "Fluent Emoji, 3-D", "author": "Microsoft Corporation", "license": "MIT"}}
    icons = fetch("iconify")
    for artist in (*ARTISTS, UNSEEN):
        icon_set = read_json(icons / "json" / f"{artist}.json")
        info = icon_set["info"]
        credits[artist] = {"title": info["name"], "author": info["author"]["name"], "license": info["license"]["spdx"]}
        if (license := credits[artist]["license"]) not in LICENSES:
            raise InputError(f"iconify: {artist} is under {license}, not one of {', '.join(LICENSES)}; leave it out")
        shown += [(number, artist, _svg(icon_set, icon)) for icon, number in _match(icon_set, names)]
    assets = fetch("fluent-3d") / "assets"
    for number, name in enumerate(names):
        files = [assets / f"{code}.webp" for code in _codes(name["code"].lower())]
        shown += [(number, FLUENT_3D, file) for file in files if file.is_file()][:1]
    _rank(names, shown)
    jobs = [
        Job(source, {"name": number, "artist": artist})
        for number, artist, source in sorted(shown, key=lambda row: row[:2])
    ]
    return {"names": names, "credits": credits}, jobs


def _names(package: Path) -> list[dict[str, Any]]:
    """Names, synonyms and tags, without flags and skin tones."""
    groups = read_json(package / "meta" / "groups.json")
    records = [
        record
        for record in read_json(package / "en" / "data.json")
        if groups["groups"].get(str(record.get("group"))) in GROUPS
    ]
    shortcodes = [read_json(package / "en" / "shortcodes" / f"{name}.json") for name in _SHORTCODES]
    taken = {_text(record["label"]).casefold() for record in records}
    names = []
    for record in sorted(records, key=lambda record: record["order"]):
        code, text = record["hexcode"], _text(record["label"])
        given = [each for codes in shortcodes for each in _several(codes.get(code, []))]
        spoken = [each.replace("_", " ").strip() for each in given]
        synonyms = [each for each in spoken if re.fullmatch(r"[a-z][a-z -]{2,}", each) and each not in taken]
        if text.endswith(" face") and record["subgroup"] == 34:  # animals: a dog's face is a dog
            synonyms.append(text.removesuffix(" face"))
        tags = [_text(tag) for tag in record.get("tags", []) if re.fullmatch(r"[a-z][a-z -]{2,}", _text(tag))]
        names.append(
            {
                "code": code,
                "emoji": record["emoji"],
                "label": record["label"],
                "shortcodes": given,
                "text": text,
                "synonyms": [each for each in dict.fromkeys(synonyms) if each != text.casefold()],
                "tags": [tag for tag in dict.fromkeys(tags) if tag != text.casefold()],
                "group": groups["groups"][str(record["group"])],
                "kind": groups["subgroups"][str(record["subgroup"])],
                "seen": _is_seen(text),
            }
        )
    return names


def _several(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


_RENAMED = {
    "automobile": "car",
    "oncoming automobile": "oncoming car",
    "locked": "lock",
    "unlocked": "open lock",
    "locked with key": "lock with key",
    "locked with pen": "lock with pen",
    "foggy": "foggy city",
    "high voltage": "lightning bolt",
    "performing arts": "drama masks",
    "wedding": "wedding chapel",
    "station": "train station",
    "dizzy": "dizzy stars",
    "cooking": "frying pan with an egg",
    "camping": "campsite",
    "tennis": "tennis ball",
    "bowling": "bowling ball",
}


_PLAIN_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def _text(label: str) -> str:
    """A label as people say it: "person: beard" becomes "person with beard", "one o'clock" a clock."""
    text = label.translate(_PLAIN_QUOTES).replace("keycap: ", "keycap ")
    text = re.sub(r"^(person|man|woman): ((blond|red|curly|white) hair|beard)$", r"\1 with \2", text)
    text = re.sub(r"^(person|man|woman): bald$", r"bald \1", text)
    whole, colon, members = text.partition(": ")
    if colon:  # "family: woman, boy"
        text = f"{whole} of {listing(members.split(', '))}" if "," in members else f"{whole} {members}"
    if text.endswith(("o'clock", "-thirty")):
        return f"clock showing {text}"
    return _RENAMED.get(text, text)


def _is_seen(text: str) -> bool:
    """Whether a name is one of the nine tenths to train on; names that differ in man and woman only go together."""
    base = " ".join(_WITHOUT.sub(" ", text.casefold()).split()) or text
    return hashlib.blake2b(base.encode(), digest_size=8).digest()[0] % 10 != 0


def _rank(names: list[dict[str, Any]], shown: list[tuple[int, str, str | Path]]) -> None:
    """Gives each name its rank: things first that have short names and that many artists drew."""
    artists = defaultdict(set)
    for number, artist, _ in shown:
        artists[number].add(artist)

    def key(number: int) -> tuple[Any, ...]:
        name = names[number]
        single = name["text"].isalpha() and name["text"].islower()
        return (name["group"] not in THINGS, not single, -len(artists[number]), number)

    for rank, number in enumerate(sorted(range(len(names)), key=key)):
        names[number]["rank"] = rank


def _match(icon_set: Mapping[str, Any], names: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """The icons of a set that show one of the names: by code point where the set knows it, or else by their own names.

    Several icons may show one thing, as bird-1 and bird-2 do.
    """
    by_code = {code: number for number, name in enumerate(names) for code in _codes(name["code"].lower())}
    by_name: dict[str, int] = {}
    for spoken in (lambda name: [name["label"]], _unicode_names, lambda name: name["shortcodes"]):
        for number, name in enumerate(names):
            for each in spoken(name):
                by_name.setdefault(_squeezed(each), number)
    codes = defaultdict(list)
    for code, icon in icon_set.get("chars", {}).items():
        codes[icon].append(code)
    aliases = defaultdict(list)
    for alias, target in icon_set.get("aliases", {}).items():
        if len(target) == 1:  # neither turned nor mirrored
            aliases[target["parent"]].append(alias)
    for icon, drawn in icon_set["icons"].items():
        if drawn.get("hidden"):
            continue
        called = [_squeezed(each) for each in (icon, *aliases[icon], re.sub(r"-?\d$", "", icon), _unshaded(icon))]
        found = [by_code[code] for code in codes[icon] if code in by_code]
        found += [by_name[each] for each in called if each in by_name]
        if found:
            yield icon, found[0]


def _codes(code: str) -> list[str]:
    """A code with and without the variation selectors, which sets leave out as they like."""
    return list(dict.fromkeys((code, code.replace("-fe0f", ""), f"{code}-fe0f")))


def _unicode_names(name: Mapping[str, Any]) -> list[str]:
    characters = [character for character in name["emoji"] if character != "\ufe0f"]
    return [unicodedata.name(characters[0], "")] if len(characters) == 1 else []


def _unshaded(icon: str) -> str:
    """ "blackpushpin" -> "pushpin": old names tell filled shapes from outlined ones."""
    return icon.removeprefix("black").removeprefix("white")


def _squeezed(name: str) -> str:
    """A name without case, blanks, marks and accents: "T-shirt" and "tshirt" are one."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in plain if character.isalnum() and character.isascii())


def _svg(icon_set: Mapping[str, Any], icon: str) -> str:
    """An icon as a file of its own."""
    drawn = icon_set["icons"][icon]
    width, height = (drawn.get(side, icon_set.get(side, 16)) for side in ("width", "height"))
    view = f"{drawn.get('left', 0)} {drawn.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{view}" width="{width}" height="{height}">{drawn["body"]}</svg>'

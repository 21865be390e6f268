"""Packages of drawings as the registries have them, but with a handful of names: no network, no waiting."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from data.drawings.index import ARTISTS, FLUENT_3D, UNSEEN
from data.materials import MATERIALS

# label, code, emoji, group, subgroup, tags, color of its drawing
NAMES = (
    ("red apple", "1F34E", "\U0001f34e", 4, 42, ["fruit", "food"], "#d02020"),
    ("dog face", "1F436", "\U0001f436", 3, 34, ["pet", "animal"], "#a06020"),
    ("grapes", "1F347", "\U0001f347", 4, 42, ["fruit", "wine"], "#8030b0"),
    ("umbrella", "2602-FE0F", "\u2602\ufe0f", 5, 59, ["rain"], "#3050d0"),
    ("hammer", "1F528", "\U0001f528", 7, 78, ["tool"], "#202020"),
    ("violin", "1F3BB", "\U0001f3bb", 7, 68, ["music"], "#b06a20"),
    ("grinning face", "1F600", "\U0001f600", 0, 0, ["happy"], "#f0d020"),
    ("bus", "1F68C", "\U0001f68c", 5, 54, ["vehicle"], "#30a040"),
    ("croissant", "1F950", "\U0001f950", 4, 44, ["bread"], "#e0902a"),
    ("owl", "1F989", "\U0001f989", 3, 35, ["bird", "wise"], "#704818"),
)
UNSEEN_NAMES = ("bus", "croissant", "owl", "violin")


def packages(folder: Path) -> Path:
    """Writes the packages unpacked below a folder of materials, which it returns."""
    places = {name: folder / f"{name}-{MATERIALS[name].version}" for name in ("iconify", "emojibase", "fluent-3d")}
    _write(places["emojibase"] / "en" / "data.json", [_record(order, *name) for order, name in enumerate(NAMES)])
    groups = {"0": "smileys-emotion", "3": "animals-nature", "4": "food-drink", "5": "travel-places", "7": "objects"}
    subgroups = {"0": "face-smiling", "34": "animal-mammal", "35": "animal-bird", "42": "food-fruit"}
    subgroups |= {"44": "food-prepared", "54": "transport-ground", "59": "sky-weather", "68": "musical-instrument"}
    subgroups |= {"78": "tool"}
    _write(places["emojibase"] / "meta" / "groups.json", {"groups": groups, "subgroups": subgroups})
    for source in ("cldr", "emojibase", "github", "joypixels", "iamcal"):
        _write(places["emojibase"] / "en" / "shortcodes" / f"{source}.json", {"1F34E": ["apple", "red_apple"]})
    for artist in (*ARTISTS, UNSEEN):
        _write(places["iconify"] / "json" / f"{artist}.json", _icon_set(artist))
    assets = places[FLUENT_3D] / "assets"
    assets.mkdir(parents=True)
    for _, code, _, _, _, _, color in NAMES[:4]:
        image = Image.new("RGBA", (64, 64))
        image.paste(color, (8, 16, 56, 48))
        image.save(assets / f"{code.lower()}.webp", lossless=True)
    _cliparts(
        folder / f"openclipart-{MATERIALS['openclipart'].version.replace(':', '_')}" / "usr/share/openclipart/svg"
    )
    stamps = folder / f"tuxpaint-{MATERIALS['tuxpaint'].version}" / "usr/share/tuxpaint/stamps"
    for name, caption in (("animals/cat", "A cat."), ("food/cartoon/pie", "A pie!"), ("symbols/math/2", "Two.")):
        (stamps / name).parent.mkdir(parents=True)
        Image.new("RGBA", (40, 30), "#a06020").save(stamps / f"{name}.png")
        (stamps / f"{name}.txt").write_text(f"{caption}\nde.utf8=Etwas.\n", encoding="utf-8")
    return folder


def _cliparts(folder: Path) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" width="9" height="9"><rect width="9" height="9"/>'
        "<metadata><dc:title>{}</dc:title><rdf:li>animal</rdf:li><!--{}--></metadata></svg>"
    )
    for name, title, license in (
        ("animals/a", "Red_fox 2", "PublicDomain"),
        ("animals/b", "", "PublicDomain"),
        ("animals/c", "Owl", "Attribution"),
        ("shapes/d", "Star", "PublicDomain"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(svg.format(title, license))


def _record(order: int, label: str, code: str, emoji: str, group: int, subgroup: int, tags: list[str], color: str):
    return {
        "label": label,
        "hexcode": code,
        "emoji": emoji,
        "group": group,
        "subgroup": subgroup,
        "tags": tags,
        "order": order,
    }


def _icon_set(artist: str) -> dict:
    """Each name as a bar, twice as wide as high, in a canvas with margins; fxemoji's names have no dashes."""
    side = {"noto": 128, "fxemoji": 512}.get(artist, 32)
    icons = {}
    for label, *_, color in NAMES:
        bar = f'<path fill="{color}" d="M{side // 8} {side // 4}h{side * 3 // 4}v{side * 3 // 8}h-{side * 3 // 4}z"/>'
        icons[label.replace(" ", "" if artist == "fxemoji" else "-")] = {"body": bar}
    icons["flag-for-nowhere"] = {"body": "<path/>"}
    icons["hidden-owl"] = {"body": "<path/>", "hidden": True}
    return {
        "info": {"name": artist.title(), "author": {"name": "Somebody"}, "license": {"spdx": "MIT"}},
        "icons": icons,
        "width": side,
        "height": side,
        "aliases": {},
        "chars": {"1f989": "owl"} if artist == "noto" else {},
    }


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")

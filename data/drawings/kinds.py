"""What kind of thing a name is and what it is used for, as far as its tags and its group tell."""

from __future__ import annotations

from data.drawings.index import Name

# tag → what to call such a thing; the first that a name has counts
_BY_TAG = {tag: tag for tag in ("fruit", "vegetable", "drink", "bird", "fish", "insect", "flower", "tree", "vehicle")}
_BY_TAG |= {"vehicle": "vehicle", "boat": "boat", "instrument": "musical instrument", "clothing": "piece of clothing"}
_BY_TAG |= {"tool": "tool", "weapon": "weapon", "building": "building", "ball": "ball", "sport": "sport"}
_BY_GROUP = {
    "animal-mammal": "animal",
    "animal-bird": "bird",
    "animal-reptile": "animal",
    "animal-marine": "sea animal",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "food",
    "food-asian": "food",
    "food-sweet": "food",
    "place-building": "building",
    "musical-instrument": "musical instrument",
}
_WIDER = {"bird": "animal", "fish": "animal", "insect": "animal", "sea animal": "animal", "flower": "plant"}
_WIDER |= {"tree": "plant", "fruit": "food", "vegetable": "food", "boat": "vehicle", "ball": "toy"}
_USES = {
    "musical instrument": "make music with it",
    "tool": "build or repair things with it",
    "piece of clothing": "wear it",
    "food": "eat it",
    "drink": "drink it",
    "vehicle": "travel with it",
    "ball": "play with it",
    "weapon": "fight with it",
}
_USES_BY_GROUP = {
    "writing": "write or draw with it",
    "phone": "talk to people far away with it",
    "book-paper": "read it",
    "money": "pay with it",
    "medical": "help the sick with it",
    "game": "play with it",
    "dishware": "eat or drink with it",
}
_NOT_KNOWN = ("animal-bird", "animal-mammal")  # groups whose tags are of other things: "paw prints", "feather"


def kind(name: Name) -> str | None:
    """ "fruit", "vehicle", "musical instrument"; None where nothing tells."""
    by_tag = next((word for tag, word in _BY_TAG.items() if tag in name.tags), None)
    if name.kind in _BY_GROUP and (name.kind not in _NOT_KNOWN or "animal" in name.tags or "bird" in name.tags):
        return _BY_GROUP[name.kind]
    return by_tag


def kinds(name: Name) -> frozenset[str]:
    """All words for its kind that are right, wider ones and tags among them."""
    found = {kind(name) or "", _WIDER.get(kind(name) or "", ""), *name.tags}
    return frozenset(found - {""})


def use(name: Name) -> str | None:
    """What one can do with it: "make music with it"; None where nothing tells."""
    of = kind(name) or ""
    return _USES_BY_GROUP.get(name.kind) or _USES.get(of) or _USES.get(_WIDER.get(of, ""))

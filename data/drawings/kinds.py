"""What kind of thing a name is and what one can do with it, as far as its group and its tags tell."""

from __future__ import annotations

from data.drawings.index import Name

# emojibase's subgroup → what to call its things, and the tag that those have which are one ("": all are)
_KINDS = {
    "animal-mammal": ("animal", "animal"),
    "animal-bird": ("bird", "bird"),
    "animal-reptile": ("animal", ""),
    "animal-marine": ("sea animal", "animal"),
    "animal-bug": ("insect", "insect"),
    "plant-flower": ("flower", ""),
    "plant-other": ("plant", "plant"),
    "food-fruit": ("fruit", ""),
    "food-vegetable": ("vegetable", ""),
    "food-prepared": ("food", ""),
    "food-asian": ("food", ""),
    "food-sweet": ("food", ""),
    "drink": ("drink", "drink"),
    "place-building": ("building", "building"),
    "transport-ground": ("vehicle", "vehicle"),
    "transport-water": ("boat", "boat"),
    "sport": ("ball", "ball"),
    "clothing": ("piece of clothing", "clothing"),
    "tool": ("tool", "tool"),
    "musical-instrument": ("musical instrument", ""),
}
_WIDER = {"bird": "animal", "insect": "animal", "sea animal": "animal", "flower": "plant", "boat": "vehicle"}
_WIDER |= {"fruit": "food", "vegetable": "food"}
_USES = {
    "musical instrument": "make music with it",
    "tool": "build or repair things with it",
    "piece of clothing": "wear it",
    "food": "eat it",
    "drink": "drink it",
    "vehicle": "travel with it",
    "ball": "play with it",
}
_USES_BY_GROUP = {
    "writing": "write or draw with it",
    "phone": "talk to people far away with it",
    "book-paper": "read it",
    "medical": "help the sick with it",
    "dishware": "eat or drink with it",
}


def kind(name: Name) -> str | None:
    """ "fruit", "vehicle", "musical instrument"; None where nothing tells."""
    word, tag = _KINDS.get(name.kind, (None, ""))
    return word if not tag or tag in name.tags else None


def kinds(name: Name) -> frozenset[str]:
    """All words for its kind that are right, wider ones and tags among them."""
    word = kind(name) or ""
    return frozenset({word, _WIDER.get(word, ""), *name.tags} - {""})


def use(name: Name) -> str | None:
    """What one can do with it: "make music with it"; None where nothing tells."""
    word = kind(name) or ""
    return _USES_BY_GROUP.get(name.kind) or _USES.get(word) or _USES.get(_WIDER.get(word, ""))

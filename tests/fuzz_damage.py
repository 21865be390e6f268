"""Ways to damage a file, chosen by a seeded generator: what disks, downloads, editors and exporters do to files."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

NONE = "no damage"
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 605157884\n"
BYTES = (b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\x1a\n", b"{", b"]", b'"', b"\\", b"%s", b"{}", b"\t\t")

# What ends up in a field: of the wrong type, empty, huge, not finite, no text, a path that leads out, markup.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.5, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\n",
        "0",
        "nan",
        "null",
        "\ud800",
        "\x00",
        "a" * 300,
        "é" * 5000,
        "../../../etc",
        "/dev/null",
        "~",
        ".",
    ),
    *("<image>", "</s>", "{}", "{0}", "%s", "http://localhost:1/a.png", "data:image/png;base64,AAAA", "file:///a.png"),
    *([], {}, [None], [[]], {"": None}, {"a": {"b": []}}, [0] * 3, ["a.png", 3]),
)


def tree_paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every node of a tree of JSON, the root's own first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in items for path in tree_paths(child, (*here, key)))]


def damage_tree(value: Any, random_: random.Random, kept: frozenset[str] = frozenset()) -> Any:
    """A tree of JSON with one node replaced, left out, doubled, nested deeper or put under another name.

    Args:
        kept: names of fields that stay as they are.
    """
    paths = [path for path in tree_paths(value) if not kept & {step for step in path if isinstance(step, str)}]
    path = random_.choice(paths)
    if not path:
        return random_.choice(VALUES)
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    step = path[-1]
    kind = random_.choice(("replace", "replace", "replace", "remove", "double", "nest", "rename"))
    if kind == "remove":
        del parent[step]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[step])
    elif kind == "nest":
        for _ in range(random_.choice((1, 2, 200))):
            parent[step] = [parent[step]]
    elif kind == "rename" and isinstance(parent, dict):
        parent[random_.choice(("", "x", f"{step} ", str(step).upper()))] = parent.pop(step)
    else:
        parent[step] = random_.choice(VALUES)
    return value


def damage_bytes(content: bytes, random_: random.Random) -> bytes:
    """Bytes cut off, overwritten, put in, left out, repeated, or in another encoding."""
    place = random_.randrange(len(content) + 1)
    length = min(random_.choice((1, 2, 8, 100)), len(content) - place)
    kind = random_.choice(("cut", "flip", "insert", "remove", "repeat", "zero", "recode"))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return content[:place] + bytes(random_.randrange(256) for _ in range(length)) + content[place + length :]
    if kind == "insert":
        return content[:place] + random_.choice(BYTES) * random_.choice((1, 1, 50)) + content[place:]
    if kind == "remove":
        return content[:place] + content[place + length :]
    if kind == "repeat":
        return content[:place] + content[place : place + length] * 5 + content[place + length :]
    if kind == "zero":
        return content[:place] + bytes(length) + content[place + length :]
    return content.decode("latin-1").encode(random_.choice(("utf-16", "utf-32", "utf-8")))


def damage_lines(content: bytes, random_: random.Random) -> bytes:
    """A text with a line left out, doubled, moved, or with a field changed."""
    lines = content.splitlines(keepends=True) or [b"\n"]
    place = random_.randrange(len(lines))
    kind = random_.choice(("remove", "double", "move", "field", "field", "join"))
    if kind == "remove":
        lines.pop(place)
    elif kind == "double":
        lines.insert(place, lines[place])
    elif kind == "move":
        lines.append(lines.pop(place))
    elif kind == "join":
        lines[place] = lines[place].rstrip(b"\r\n")
    else:
        separator = next((mark for mark in (b"\t", b",", b":", b" ") if mark in lines[place]), b" ")
        fields = lines[place].rstrip(b"\n").split(separator)
        fields[random_.randrange(len(fields))] = str(random_.choice(VALUES)).encode(errors="replace")
        lines[place] = separator.join(fields) + b"\n"
    return b"".join(lines)


def damage_json(content: bytes, random_: random.Random) -> bytes:
    return json.dumps(damage_tree(json.loads(content), random_)).encode()


def damage_json_lines(content: bytes, random_: random.Random) -> bytes:
    lines = content.splitlines()
    place = random_.randrange(len(lines))
    lines[place] = damage_json(lines[place], random_)
    return b"\n".join(lines) + b"\n"


# A number of steps that nobody would wait for is no fault of a recipe's.
LENGTHS = frozenset({"steps", "max_steps", "epochs", "num_train_epochs"})


def damage_yaml(content: bytes, random_: random.Random) -> bytes:
    tree = damage_tree(yaml.safe_load(content), random_, LENGTHS)
    return yaml.safe_dump(tree, allow_unicode=random_.random() < 0.5).encode(errors="backslashreplace")


def damage_safetensors(content: bytes, random_: random.Random) -> bytes:
    """Another header before the same weights."""
    (length,) = struct.unpack("<Q", content[:8])
    header = damage_json(content[8 : 8 + length], random_)
    if random_.random() < 0.2:
        return struct.pack("<Q", random_.choice((0, 2**40, 2**63, length - 1))) + content[8:]
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


BY_SUFFIX: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    ".json": (damage_json, damage_json, damage_json, damage_bytes),
    ".jsonl": (damage_json_lines, damage_json_lines, damage_json_lines, damage_lines, damage_bytes),
    ".yaml": (damage_yaml, damage_yaml, damage_yaml, damage_lines, damage_bytes),
    ".safetensors": (damage_safetensors, damage_bytes),
    ".txt": (damage_lines, damage_bytes),
    ".tsv": (damage_lines, damage_bytes),
    ".csv": (damage_lines, damage_bytes),
    ".jinja": (damage_lines, damage_bytes),
}


def damage_file(path: Path, random_: random.Random) -> str:
    """Damages a file in place, or puts something else there. Returns in words what was done."""
    whole = random_.random()
    if whole < 0.01:
        return NONE  # so that a command that reads its good files no longer is noticed
    if whole < 0.03:
        path.unlink()
        return "missing"
    if whole < 0.06:
        path.write_bytes(random_.choice((b"", HTML, LFS, b"\x00" * 4096)))
        return "other content"
    if whole < 0.12:
        path.unlink()
        kind = random_.choice(("folder", "fifo", "endless", "loop", "dangling"))
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to({"endless": "/dev/zero", "loop": path.name, "dangling": "nowhere"}[kind])
        return kind
    damage = random_.choice(BY_SUFFIX.get(path.suffix, (damage_bytes,)))
    content = path.read_bytes()
    try:
        path.write_bytes(damage(content, random_))
    except (ValueError, RecursionError):  # it can no longer be written down: damaged all the same
        damage = damage_bytes
        path.write_bytes(damage(content, random_))
    return damage.__name__

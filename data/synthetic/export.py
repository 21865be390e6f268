"""Writing generated scenes out as ordinary datasets: a folder, LLaVA's format, webdataset shards, parquet."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from data.errors import InputError
from data.files import check_new_folder, whole_folder
from data.samples import to_record
from data.synthetic.captions import caption
from data.synthetic.datasets import SceneCaptions, SceneConversations, SceneTurns, ZeroShotScenes
from data.synthetic.questions import CATEGORIES, make_questions
from data.synthetic.scene import Scene, SceneConfig, make_scene

Numbers = Iterator[int]


def export_scenes(
    out: str | os.PathLike[str],
    format: str,
    split: str,
    count: int,
    config: SceneConfig | None = None,
    *,
    start: int = 0,
    samples_per_file: int = 1000,
    categories: Sequence[str] = (),
    progress: bool = False,
) -> str:
    """Writes scenes ``start`` to ``start + count - 1`` of ``split`` into a new folder ``out``.

    | format | files |
    |---|---|
    | ``folder`` | ``NUMBER.png``, ``metadata.jsonl`` (one line an image: file_name and the facts) |
    | ``classes`` | ``COLOR SHAPE/NUMBER.png``, one object each, for zero-shot classification: `data.open_labeled` |
    | ``llava`` | ``images/NUMBER.png``, ``conversations.json`` |
    | ``webdataset`` | ``scenes-NNNNNN.tar``, each sample ``NUMBER.png``, ``.txt`` (caption), ``.json`` (facts) |
    | ``examples`` | ``scene-N.png``, ``questions.json``, as `mllm demo` has it; every fourth has something to read |
    | ``parquet`` | ``data/SPLIT-NNNNN-of-NNNNN.parquet`` with columns image and the facts |

    The facts of a scene are ``caption``, ``objects`` (shape, color, size, box x1 y1 x2 y2 in [0, 1]), ``text`` or
    None, ``split`` and ``index``. NUMBER is the index, eight digits. All is moved into ``out`` at the end, so there is
    a whole dataset or none. ``categories`` choose the questions of ``llava``, as in `data.synthetic.sources`.

    Returns:
        Where to read it again: a source for `data.open_images`, for ``llava`` the file for `data.load_conversations`.

    Raises:
        InputError: for an unknown format, split or a bad count; if ``out`` is a file, or a folder with something in it,
            or cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format={format}: choose one of {', '.join(FORMATS)}")
    if samples_per_file < 1:
        raise InputError(f"samples_per_file={samples_per_file}: choose at least 1")
    write = FORMATS[format]
    if categories:
        if format != "llava":
            raise InputError(f"categories={'+'.join(categories)}: belong to format llava, not {format}; leave them out")
        write = partial(_write_llava, asked=SceneTurns(descriptions=0.0, categories=list(categories)))
    out = Path(out)
    config = config or SceneConfig()
    scenes = SceneCaptions(split, count, config, start)
    numbers = track(range(count), f"{count} scenes", console=Console(stderr=True), transient=True, disable=not progress)
    try:
        check_new_folder(str(out), out)
        with whole_folder(out) as folder:
            address = write(folder, iter(numbers), scenes, samples_per_file)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from error
    return address.format(out=out)


def _write_folder(folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int) -> str:
    with open(folder / "metadata.jsonl", "w", encoding="utf-8") as file:
        for number in numbers:
            scene = scenes.scene(number)
            name = f"{scene.index:08d}.png"
            scene.image().save(folder / name)
            file.write(json.dumps({"file_name": name, **_facts(scene)}) + "\n")
    return "folder:{out}"


def _write_classes(folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int) -> str:
    objects = ZeroShotScenes(scenes.split, scenes.count, scenes.config, scenes.start)
    for number in numbers:
        scene = objects.scene(number)
        place = folder / scene.objects[0].name
        place.mkdir(exist_ok=True)
        scene.image().save(place / f"{scene.index:08d}.png")
    return "folder:{out}"


def _write_llava(
    folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int, asked: SceneTurns | None = None
) -> str:
    (folder / "images").mkdir()
    conversations = SceneConversations(scenes.split, scenes.count, scenes.config, scenes.start, asked)
    with open(folder / "conversations.json", "w", encoding="utf-8") as file:
        for number in numbers:
            conversation = conversations[number]
            name = f"images/{scenes.start + number:08d}.png"
            conversation["images"][0].save(folder / name)
            record = {**to_record(conversation["id"], [name], conversation["messages"]), "image": name}
            file.write(("[" if number == 0 else ",\n") + json.dumps(record))
        file.write("]\n")
    return "{out}/conversations.json"


def _write_webdataset(folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int) -> str:
    for shard, batch in enumerate(_batches(numbers, samples_per_file)):
        with tarfile.open(folder / f"scenes-{shard:06d}.tar", "w") as tar:
            for number in batch:
                scene = scenes.scene(number)
                facts = _facts(scene)
                fields = {
                    "png": _png(scene.image()),
                    "txt": facts["caption"].encode(),
                    "json": json.dumps(facts).encode(),
                }
                for extension, content in fields.items():
                    member = tarfile.TarInfo(f"{scene.index:08d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return "webdataset:{out}/scenes-*.tar"


def _write_parquet(folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int) -> str:
    import datasets
    import pyarrow.parquet

    (folder / "data").mkdir()
    string, number_ = datasets.Value("string"), datasets.Value("float32")
    thing = {"shape": string, "color": string, "size": string, "box": datasets.List(number_, length=4)}
    features = datasets.Features(
        image=datasets.Image(),
        caption=string,
        objects=datasets.List(thing),
        text=string,
        split=string,
        index=datasets.Value("int64"),
    )
    files = -(-scenes.count // samples_per_file)
    for shard, batch in enumerate(_batches(numbers, samples_per_file)):
        rows = []
        for number in batch:
            scene = scenes.scene(number)
            image = {"bytes": _png(scene.image()), "path": f"{scene.index:08d}.png"}
            rows.append({"image": image, **_facts(scene)})
        name = f"{scenes.split}-{shard:05d}-of-{files:05d}.parquet"
        table = datasets.Dataset.from_list(rows, features=features).data.table  # its schema carries the features
        pyarrow.parquet.write_table(table, folder / "data" / name)
    return f"datasets:{{out}}:{scenes.split}:image"


def _write_examples(folder: Path, numbers: Numbers, scenes: SceneCaptions, samples_per_file: int) -> str:
    """Three questions of different categories on each image, the categories taken in turn."""
    items: list[dict[str, str]] = []
    turn = 0
    drawn = (make_scene(scenes.split, index, scenes.config) for index in itertools.count(scenes.start))
    for number in numbers:
        scene = next(scene for scene in drawn if bool(scene.text) == (number % 4 == 3))
        name = f"scene-{number + 1}.png"
        scene.image().save(folder / name)
        questions = {question.category: question for question in make_questions(scene)}
        asked = ["read"] if "read" in questions else []
        others = [category for category in CATEGORIES if category in questions and category != "read"]
        while len(asked) < min(3, len(others)):
            asked.append(others[turn % len(others)])
            turn += 1
        for category in asked:
            question, answer = questions[category].question, questions[category].answer
            items.append({"image": name, "category": category, "question": question, "answer": answer})
    (folder / "questions.json").write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")
    return "{out}/questions.json"


FORMATS: dict[str, Callable[[Path, Numbers, SceneCaptions, int], str]] = {
    "folder": _write_folder,
    "classes": _write_classes,
    "llava": _write_llava,
    "webdataset": _write_webdataset,
    "parquet": _write_parquet,
    "examples": _write_examples,
}
"""Name of a format → what writes it into an empty folder and tells where to read it."""


def _facts(scene: Scene) -> dict[str, Any]:
    objects = [
        {"shape": item.shape, "color": item.color, "size": item.size, "box": list(item.box)} for item in scene.objects
    ]
    return {
        "caption": caption(scene),
        "objects": objects,
        "text": scene.text,
        "split": scene.split,
        "index": scene.index,
    }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _batches(numbers: Numbers, size: int) -> Iterator[list[int]]:
    while batch := list(islice(numbers, size)):
        yield batch

"""Small files of conversations and of every benchmark, in the forms in which LLaVA's users have them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SHORT = "\nAnswer the question using a single word or phrase."


def write(path: Path, content: Any) -> Path:
    """A JSON file; a list whose file ends in .jsonl, or POPE's, as lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl" or "_pope_" in path.name:
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(json.dumps(content))
    return path


def turns(*values: str) -> list[dict[str, str]]:
    """Human and gpt in turn."""
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def answers(path: Path, texts: Iterable[tuple[Any, str]], prompts: Sequence[str] | None = None) -> Path:
    """LLaVA's answers to questions by id."""
    lines: list[dict[str, Any]] = [
        {"question_id": name, "text": text, "answer_id": str(place), "model_id": "m", "metadata": {}}
        for place, (name, text) in enumerate(texts)
    ]
    if prompts is not None:
        lines = [{**line, "prompt": prompt} for line, prompt in zip(lines, prompts, strict=True)]
    return write(path, lines)


def images(folder: Path, names: Iterable[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image(seed).save(folder / name)
    return folder


def questions(path: Path, asked: Iterable[tuple[Any, str, str, str]]) -> Path:
    """LLaVA's question file of (id, image, text, category)."""
    fields = ("question_id", "image", "text", "category")
    return write(path, [dict(zip(fields, each, strict=True)) for each in asked])


def vqav2_annotations(path: Path, given: dict[int, Sequence[str]], **more: Any) -> Path:
    annotations = [
        {
            "question_id": name,
            "answers": [
                {"answer": word, "answer_confidence": "yes", "answer_id": place} for place, word in enumerate(words, 1)
            ],
            **more,
        }
        for name, words in given.items()
    ]
    return write(path, {"info": {}, "annotations": annotations})


def textvqa_annotations(path: Path, given: Sequence[tuple[int, str, str, Sequence[str]]]) -> Path:
    """Of (question_id, image_id, question, ten answers)."""
    fields = ("question_id", "image_id", "question", "answers")
    return write(path, {"dataset_type": "val", "data": [dict(zip(fields, each, strict=True)) for each in given]})


def pope_annotations(folder: Path, given: dict[str, Sequence[tuple[str, str, str]]]) -> Path:
    """Category → (image, question, label); ids begin at 1 in each category, as the published ones do."""
    for category, lines in given.items():
        records = [
            {"question_id": number, "image": image, "text": text, "label": label}
            for number, (image, text, label) in enumerate(lines, 1)
        ]
        write(folder / f"coco_pope_{category}.json", records)
    return folder


def mme_folder(folder: Path, given: dict[str, Sequence[tuple[str, str]]], nested: Sequence[str] = ()) -> Path:
    """Category → (image's name without ending, its two lines)."""
    for category, files in given.items():
        place = folder / category / ("questions_answers_YN" if category in nested else "")
        place.mkdir(parents=True, exist_ok=True)
        for name, lines in files:
            (place / f"{name}.txt").write_text(lines)
    return folder


MMBENCH_COLUMNS = (
    *("index", "question", "hint", "A", "B", "C", "D", "answer"),
    *("category", "image", "source", "l2-category", "comment", "split"),
)


def mmbench_table(path: Path, rows: Sequence[dict[str, str]], drop: Sequence[str] = ()) -> Path:
    """MMBench's table; what a row does not give is empty, its image a real one."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, [name for name in MMBENCH_COLUMNS if name not in drop], delimiter="\t", restval="")
        table.writeheader()
        for number, row in enumerate(rows):
            filled = {"image": image_base64(number), **row}
            table.writerow({name: value for name, value in filled.items() if name not in drop})
    return path


def image(seed: int) -> Image.Image:
    """Coloured stripes, another one for each of the first thousands of seeds."""
    stripes = bytes((7 * place * (seed + 1) + 40 * seed) % 256 for place in range(3 * 40))
    return Image.frombytes("RGB", (40, 32), stripes * 32)


def image_base64(seed: int) -> str:
    buffer = io.BytesIO()
    image(seed).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()

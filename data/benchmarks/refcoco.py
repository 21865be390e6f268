"""RefCOCO, RefCOCO+ and RefCOCOg (arXiv 1608.00272): where is what an expression describes? Answered by a box."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from data.benchmarks.base import Benchmark, GroundTruth, Option, Question, register_benchmark
from data.errors import InputError
from data.json_objects import Id, Record, is_blank, read_objects, take, take_id
from data.messages import Place
from data.places import HIT, find_places, overlap, scaled
from data.references import open_reference

TEMPLATE = "Please provide the bounding box coordinate of the region this sentence describes: {}"  # LLaVA's words


@register_benchmark
class RefCOCO(Benchmark):
    """RefCOCO, RefCOCO+ or RefCOCOg: the files of one split that Qwen-VL's and InternVL's users have.

    Each line is ``{"image", "sent", "bbox": [x1, y1, x2, y2], "width", "height"}``, the box in pixels of an image of
    that size. They hold the ground truth, and a line's number is the question's id where it has none.

    Args:
        template: the question, with {} for the expression; what a model was trained to be asked.
    """

    name = "refcoco"
    title = "RefCOCO"
    metric = "accuracy at IoU 0.5"
    instruction = ""
    options: ClassVar[tuple[Option, ...]] = (Option("template", str, "the question, with {} for the expression"),)
    max_new_tokens = 32

    def __init__(self, template: str = TEMPLATE) -> None:
        if template.count("{}") != 1:
            raise InputError(f"--template {template!r}: has not one {{}}; write it where the expression belongs")
        self.template = template

    def records(self, file: Path) -> list[tuple[str, Record]]:
        numbered = enumerate(read_objects(file), 1)
        return [(where, {"question_id": number, **record}) for number, (where, record) in numbered]

    def read_question(self, record: Record, where: str, images: Path) -> Question:
        question_id, image = take_id(record, "question_id", where), take(record, "image", str, where)
        text = self.template.replace("{}", take(record, "sent", str, where).strip())
        fields = {"box": _box(record, where)}
        return Question(question_id, text, image, partial(open_reference, image, images), fields=fields)

    def prompt(self, question: Question) -> str:
        return question.text

    def own_ground_truth(self, questions: Sequence[Question]) -> list[GroundTruth]:
        return [_truth(each.question_id, each.fields["box"]) for each in questions]

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From the file of the questions."""
        return [
            _truth(take_id(record, "question_id", where), _box(record, where)) for where, record in self.records(path)
        ]

    def grade(self, text: str, value: Place) -> float:
        """Whether the first place in an answer is a box that overlaps enough with the right one."""
        return any(overlap(place, value) >= HIT for place in find_places(text)[:1])


def _truth(question_id: Id, box: Place) -> GroundTruth:
    return GroundTruth(question_id, box, (("id", str(question_id)),))


def _box(record: Record, where: str) -> Place:
    """The box of a record in fractions of its image."""
    if is_blank(record.get("width")) or is_blank(record.get("height")):
        raise InputError(f"{where}: lacks 'width' or 'height' of the image, in pixels; add them")
    size, box = (
        (take(record, "width", int, where), take(record, "height", int, where)),
        take(record, "bbox", list, where),
    )
    numbers = len(box) == 4 and all(type(number) in (int, float) for number in box)
    if min(size) < 1 or not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"{where}: 'bbox' is {box} in an image of {size[0]}x{size[1]}; give pixels x1, y1, x2, y2")
    return scaled(tuple(box), (1 / size[0], 1 / size[1]))

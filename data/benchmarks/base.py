"""What a benchmark is, and how one is chosen by name.

A benchmark is a subclass of `Benchmark` in a file of its own, registered under its name. It says how its questions are
read, what is asked, with what an answer is compared, what the score is and what is submitted. It knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from data.errors import InputError
from data.json_objects import Id, Record, is_blank, read_objects, take, take_id
from data.references import locate, open_reference
from data.registry import Registry

if TYPE_CHECKING:
    from PIL import Image

SHORT_ANSWER = "Answer the question using a single word or phrase."
PLACEHOLDER = "<image>"  # where some files say that the image stands; it always comes first
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
_LOOKED_UP = 100  # images whose existence is checked when questions are read

Key = tuple[Hashable, ...]
"""What an answer and the ground truth are paired by: a name of the way, then the values, e.g. ``("id", "17")``."""


class Option(NamedTuple):
    """An option of a benchmark, which `mllm eval` offers as a flag. It is set by a keyword of its constructor."""

    name: str
    type: type[str] | type[int] | type[bool]
    help: str


@dataclass(frozen=True)
class Question:
    """One question about one image. ``text`` is without the benchmark's instruction, ``image`` the image's name."""

    question_id: Id
    text: str
    image: str
    load_image: Callable[[], Image.Image]  # opens it; raises InputError if that cannot be done
    category: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)  # what this benchmark needs besides


@dataclass(frozen=True)
class Answer:
    """What a model said; ``text`` is None where it was not asked because the image or the question is broken."""

    question_id: Id
    text: str | None
    prompt: str | None = None
    category: str = ""
    image: str = ""
    where: str = "answers"


@dataclass(frozen=True)
class GroundTruth:
    """With what an answer is compared; ``keys`` are the ways in which an answer may name its question.

    The first key is its own; ``repeats`` says how often annotations hold it.
    """

    question_id: Id
    value: Any
    keys: tuple[Key, ...]
    category: str = ""
    repeats: int = 1


Pair = tuple[GroundTruth, str | None]
"""A question's ground truth and its answer, None if there is none."""


@dataclass(frozen=True)
class Result:
    """A score in percent (MME: points), of each question, and of groups: name → {"n" or a measure: value}."""

    overall: float
    items: list[tuple[Id, float]]
    groups: dict[str, dict[str, float]]
    unanswered: int


class Benchmark:
    """A benchmark. Its constructor takes its ``options``, by keyword."""

    name: ClassVar[str]
    title: ClassVar[str]
    metric: str  # what the overall score is
    instruction: ClassVar[str]  # what the prompt ends with, on a line of its own
    needs: ClassVar[tuple[str, ...]] = ("questions", "images")  # what `read_questions` must be given
    options: ClassVar[tuple[Option, ...]] = ()
    image_size: tuple[int, int] | None = None  # height and width that the model sees, for images that are drawn
    max_new_tokens: ClassVar[int] = 128

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        """All questions, in the order of the file.

        Args:
            file: which `records` reads.
            images: the folder in which images lie. A benchmark ignores what it does not need.
        Raises:
            InputError: it is malformed or holds no question, one stands there twice, none of the images is there.
        """
        questions: dict[tuple[Key, str], Question] = {}
        for where, record in self.records(file):
            question = self.read_question(record, where, images)
            key = (self.keys(self.answer(question, None))[0], str(question.question_id))
            if key in questions:  # no answer could be told from the other's
                raise InputError(f"{file}: question {question.question_id} stands there twice; drop one of them")
            questions[key] = question
        if not questions:
            raise InputError(f"{file}: holds no question with an image; name the published file")
        if "images" in self.needs:
            _check_images([question.image for question in questions.values()], images)
        return list(questions.values())

    def records(self, file: Path) -> Iterable[tuple[str, Record]]:
        """(Where it stands, for messages; it) of each question.

        LLaVA's file has one JSON object a line with "question_id", "image", "text" and perhaps "category".
        """
        return read_objects(file)

    def read_question(self, record: Record, where: str, images: Path) -> Question:
        """One of the `records`."""
        text, image = take(record, "text", str, where), take(record, "image", str, where)
        category = "" if is_blank(record.get("category")) else take(record, "category", str, where)
        question_id = take_id(record, "question_id", where)
        return Question(question_id, self._bare(text), image, partial(open_reference, image, images), category)

    def prompt(self, question: Question) -> str:
        """What is asked: the question and the instruction, which question files hold or lack."""
        return f"{question.text}\n{self.instruction}"

    def question_of(self, prompt: str) -> str:
        """The question in a prompt, of ours or LLaVA's."""
        return self._bare(prompt)

    def _bare(self, text: str) -> str:
        return text.replace(PLACEHOLDER, "").strip().removesuffix(self.instruction).strip()

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """The ground truth of every question, from the annotations as they are published. Raises InputError."""
        raise InputError(
            f"{path}: {self.name} has no annotations; leave them out, `mllm eval {self.name}` does without"
        )

    def own_ground_truth(self, questions: Sequence[Question]) -> list[GroundTruth] | None:
        """The ground truth, where the questions hold it themselves; None where annotations are needed."""
        return None

    def keys(self, answer: Answer) -> list[Key]:
        """The ways in which an answer names its question, the first that fits counting."""
        return [("id", str(answer.question_id))]

    def answer(self, question: Question, text: str | None) -> Answer:
        """What a model said to a question, with all that names the question."""
        return Answer(question.question_id, text, self.prompt(question), question.category, question.image)

    def score(self, pairs: Sequence[Pair]) -> Result:
        """The score of at least one pair; an answer that is missing is wrong. By default the mean of `grade`."""
        grades = [0.0 if text is None else float(self.grade(text, truth.value)) for truth, text in pairs]
        return mean_result(pairs, grades)

    def grade(self, text: str, value: Any) -> float:
        """How right an answer is, in [0, 1]; ``value`` is that of its `GroundTruth`."""
        raise NotImplementedError(f"{type(self).__name__} defines neither grade nor score")

    def submission(self, text: str) -> str:
        """An answer as it is submitted, which is also how `mllm eval` scores it."""
        return text

    def write_upload(
        self, folder: Path, questions: Sequence[Question], texts: Sequence[str | None], pairs: Sequence[Pair] = ()
    ) -> Path | None:
        """Write what is uploaded to the benchmark's server, or read by its own script.

        Args:
            texts: the answer to each question, as it is submitted; None if there is none.
            pairs: the same beside the ground truth, where that is known.
        Returns:
            what was written, None where nobody wants anything.
        """
        return None


_NAMES = ("gqa", "mmbench", "mme", "pope", "refcoco", "scienceqa", "textvqa", "vqav2")
_MODULES = {name: f"data.benchmarks.{name}" for name in _NAMES}
_MODULES |= {name: f"data.{name}.benchmark" for name in ("synthetic", "drawings")}
_MODULES["stamps"] = "data.drawings.benchmark"
BENCHMARKS: Registry[type[Benchmark]] = Registry("benchmark", _MODULES)
B = TypeVar("B", bound=type[Benchmark])


def register_benchmark(cls: B) -> B:
    """Decorator that puts a `Benchmark` into the registry under its name; ValueError if that is taken."""
    BENCHMARKS.register(cls.name, cls)
    return cls


def build_benchmark(name: str, **options: Any) -> Benchmark:
    """The benchmark registered as ``name``.

    Raises:
        InputError: there is none, or it has not one of the options.
    """
    cls = BENCHMARKS[name]
    for option in options:
        if option not in [known.name for known in cls.options]:
            raise InputError(f"--{option.replace('_', '-')} is no option of {name}; leave it out")
    return cls(**options)


def _check_images(names: Sequence[str], folder: Path) -> None:
    """Raise InputError unless the folder is there and at least one of a hundred of its images."""
    if not folder.is_dir():
        raise InputError(f"--images {folder}: there is no such folder of images; check the path")
    looked_up = [locate(name, folder) for name in names[:: -(-len(names) // _LOOKED_UP)]]
    # Unlike Path.exists, that of os.path does not mind long names.
    if not any(isinstance(place, bytes) or os.path.exists(place) for place in looked_up):
        raise InputError(f"--images {folder}: none of the images is there, e.g. {looked_up[0]!s}; check the folder")


def mean_result(pairs: Sequence[Pair], scores: Sequence[float]) -> Result:
    """The mean of scores in [0, 1], and of each category where there are any, in the order in which they come."""
    items = [(truth.question_id, 100 * score) for (truth, _), score in zip(pairs, scores, strict=True)]
    by_category: dict[str, list[float]] = {}
    for (truth, _), (_, score) in zip(pairs, items, strict=True):
        by_category.setdefault(truth.category, []).append(score)
    groups = {
        name: {"n": len(values), "accuracy": sum(values) / len(values)} for name, values in by_category.items() if name
    }
    return Result(sum(score for _, score in items) / len(items), items, groups, unanswered(pairs))


def unanswered(pairs: Iterable[Pair]) -> int:
    """How many questions have no answer."""
    return sum(text is None for _, text in pairs)

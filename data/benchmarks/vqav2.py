"""VQAv2 (arXiv 1612.00837): open questions about COCO's images, ten human answers each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from data.benchmarks.base import SHORT_ANSWER, Benchmark, GroundTruth, Option, Pair, Question, register_benchmark
from data.benchmarks.vqa_accuracy import normalize_answer, vqav2_accuracy
from data.errors import InputError
from data.files import write_json
from data.json_objects import Id, Record, each_object, read_object, read_objects, take, take_answer, take_id


@register_benchmark
class VQAv2(Benchmark):
    """VQAv2.

    Args:
        upload_questions: the questions of the whole split that the server wants, where only a part was asked.
    """

    name = "vqav2"
    title = "VQAv2"
    metric = "accuracy"
    instruction = SHORT_ANSWER
    options: ClassVar[tuple[Option, ...]] = (
        Option("upload_questions", str, "file of all questions of the split that is uploaded, if more"),
    )

    def __init__(self, upload_questions: str | None = None) -> None:
        self.split_ids: list[Id] | None = None
        if upload_questions is not None:
            records = read_objects(Path(upload_questions))
            self.split_ids = [take_id(record, "question_id", where) for where, record in records]

    def records(self, file: Path) -> Iterable[tuple[str, Record]]:
        """As everywhere, or from the official ``v2_OpenEnded_mscoco_*_questions.json``, which is one object."""
        if file.suffix != ".json":
            yield from super().records(file)
            return
        content = read_object(file, "v2_OpenEnded_mscoco_val2014_questions.json")
        subset = take(content, "data_subtype", str, str(file))
        for where, _, record in each_object(file, "question", take(content, "questions", list, str(file))):
            image = f"COCO_{subset}_{take(record, 'image_id', int, where):012d}.jpg"
            yield where, {**record, "image": image, "text": take(record, "question", str, where)}

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From ``v2_mscoco_val2014_annotations.json``; categories are the types of answer."""
        content = read_object(path, "v2_mscoco_val2014_annotations.json")
        annotations = take(content, "annotations", list, str(path))
        truths = []
        for where, _, record in each_object(path, "annotation", annotations):
            question_id = take_id(record, "question_id", where)
            answers = take_answer(record, "answers", list, where)
            words = [each.get("answer") if isinstance(each, dict) else None for each in answers]
            if not words or not all(isinstance(word, str) for word in words):
                raise InputError(f"{where}: 'answers' must be objects with an 'answer' each; fetch the file again")
            category = take(record, "answer_type", str, where) if "answer_type" in record else ""
            truths.append(GroundTruth(question_id, words, (("id", str(question_id)),), category))
        return truths

    def grade(self, text: str, value: Sequence[str]) -> float:
        return vqav2_accuracy(text, value)

    def submission(self, text: str) -> str:
        """Normalized, as LLaVA does: where all annotators wrote "yes", the server takes "Yes" for wrong."""
        return normalize_answer(text)

    def write_upload(
        self, folder: Path, questions: Sequence[Question], texts: Sequence[str | None], pairs: Sequence[Pair] = ()
    ) -> Path:
        """``[{"question_id", "answer"}]`` with every id of the split, "" for what was not asked."""
        answers = {question.question_id: text or "" for question, text in zip(questions, texts, strict=True)}
        ids = list(answers) if self.split_ids is None else self.split_ids
        if strange := answers.keys() - set(ids):
            raise InputError(f"--upload-questions: lacks question {min(map(str, strange))}, which was asked")
        return write_json(
            folder / "upload.json", [{"question_id": each, "answer": answers.get(each, "")} for each in ids]
        )

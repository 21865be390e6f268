"""GQA (arXiv 1902.09506): compositional questions with one right answer each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.benchmarks.base import SHORT_ANSWER, Benchmark, GroundTruth, Pair, Question, register_benchmark
from data.files import write_json
from data.json_objects import each_object, read_object, take, take_answer


@register_benchmark
class GQA(Benchmark):
    """GQA, the balanced test-dev split."""

    name = "gqa"
    title = "GQA"
    metric = "accuracy"
    instruction = SHORT_ANSWER

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From ``testdev_balanced_questions.json``; categories are the structural types of question."""
        content = read_object(path, "testdev_balanced_questions.json")
        truths = []
        for where, question_id, record in each_object(path, "question", content):
            types = take(record, "types", dict, where) if "types" in record else {}
            answer = take_answer(record, "answer", str, where)
            truths.append(GroundTruth(question_id, answer, (("id", question_id),), str(types.get("structural") or "")))
        return truths

    def grade(self, text: str, value: str) -> float:
        return self.submission(text) == value.lower()

    def submission(self, text: str) -> str:
        """Lower case, without a full stop at the end."""
        return text.strip().rstrip(".").lower()

    def write_upload(
        self, folder: Path, questions: Sequence[Question], texts: Sequence[str | None], pairs: Sequence[Pair] = ()
    ) -> Path:
        """``[{"questionId", "prediction"}]``, which the official ``eval.py`` reads."""
        answered = zip(questions, texts, strict=True)
        records = [{"questionId": str(question.question_id), "prediction": text or ""} for question, text in answered]
        return write_json(folder / "testdev_balanced_predictions.json", records)

"""TextVQA (arXiv 1904.08920): questions about what is written in an image, ten human answers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from data.benchmarks.base import SHORT_ANSWER, Answer, Benchmark, GroundTruth, Key, Option, Question, register_benchmark
from data.benchmarks.vqa_accuracy import textvqa_accuracy
from data.errors import InputError
from data.json_objects import Record, each_object, read_object, take, take_answer, take_id

_OCR = "\nReference OCR token:"  # opens the second line of LLaVA's questions


@register_benchmark
class TextVQA(Benchmark):
    """TextVQA, validation split.

    LLaVA's file names a question by its image, so two questions may have one id: they are told apart by their words.

    Args:
        ocr: leave the OCR tokens of the question file in the prompt. They raise scores by about ten points.
    """

    name = "textvqa"
    title = "TextVQA"
    instruction = SHORT_ANSWER
    options: ClassVar[tuple[Option, ...]] = (Option("ocr", bool, "leave the OCR tokens of the file in the prompt"),)

    def __init__(self, ocr: bool = False) -> None:
        self.ocr = ocr
        self.metric = f"accuracy, {'with' if ocr else 'no'} OCR tokens in the prompt"

    def read_questions(self, file: Path, images: Path) -> list[Question]:
        questions = super().read_questions(file, images)
        if self.ocr and not any(question.fields for question in questions):
            raise InputError(f"{file}: no question has a line {_OCR.strip()!r}; name LLaVA's *_ocr.jsonl or drop --ocr")
        return questions

    def read_question(self, record: Record, where: str, images: Path) -> Question:
        question = super().read_question(record, where, images)
        text, found, tokens = question.text.partition(_OCR)
        return replace(question, text=text.strip(), fields={"ocr": tokens.strip()} if found else {})

    def prompt(self, question: Question) -> str:
        if not self.ocr or "ocr" not in question.fields:
            return super().prompt(question)
        return f"{question.text}{_OCR} {question.fields['ocr']}\n{self.instruction}"

    def question_of(self, prompt: str) -> str:
        return super().question_of(prompt).partition(_OCR)[0].strip()

    def read_ground_truth(self, path: Path) -> list[GroundTruth]:
        """From ``TextVQA_0.5.1_val.json``."""
        content = read_object(path, "TextVQA_0.5.1_val.json")
        truths = []
        for where, _, record in each_object(path, "question", take(content, "data", list, str(path))):
            answers = take_answer(record, "answers", list, where)
            if len(answers) != 10 or not all(isinstance(answer, str) for answer in answers):
                raise InputError(f"{where}: 'answers' must be exactly 10 texts; fetch the file again")
            image, text = take_id(record, "image_id", where), take(record, "question", str, where)
            keys: list[Key] = [("image", str(image), text.strip().lower())]
            if "question_id" in record:
                keys.append(("id", str(take_id(record, "question_id", where))))
            truths.append(GroundTruth(record.get("question_id", image), answers, tuple(keys)))
        return truths

    def keys(self, answer: Answer) -> list[Key]:
        """By image and question, as LLaVA's answers and the official evaluator do, or by the annotation's own id."""
        by_id: Key = ("id", str(answer.question_id))
        if answer.prompt is None:
            return [by_id]
        return [("image", str(answer.question_id), self.question_of(answer.prompt).lower()), by_id]

    def grade(self, text: str, value: Sequence[str]) -> float:
        return textvqa_accuracy(text, value)

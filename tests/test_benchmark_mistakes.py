"""Malformed files of benchmarks: one line that names the file, the place and the fix, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.benchmarks import build_benchmark
from data.errors import InputError
from mllm.cli import main
from tests import benchmark_files as files

GQA = {"10": {"answer": "no"}, "11": {"answer": "yes"}}
LINE = '{"question_id": "10", "text": "no"}\n'
TEN = ["a"] * 10
ROW = {"index": "1", "question": "?", "A": "x", "B": "y", "answer": "B"}
PROBLEM = {"choices": ["x", "y"], "answer": 0, "image": "image.png", "split": "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("[]", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (LINE + '{"question_id": "11", "te', "line 2 is no JSON"),
        ('[{"question_id": "10"', "is no JSON"),
        ("17\n", "line 1: is no JSON object"),
        ('[["10", "no"]]', "item 1: is no JSON object"),
        ('{"question_id": "10"}\n', "line 1: has not both 'question_id' and 'text'"),
        ('{"question_id": "10", "text": null}\n', "'text' is None; give a text"),
        ('{"question_id": "10", "text": 3}\n', "'text' is 3; give a text"),
        ('{"question_id": null, "text": "no"}\n', "'question_id' is None"),
        ('{"question_id": true, "text": "no"}\n', "'question_id' is True"),
        ('{"question_id": "10", "text": "no", "metadata": 1}\n', "'metadata' is 1; give an object"),
        ('{"question_id": "10", "text": "no", "prompt": 1}\n', "'prompt' is 1; give a text"),
        (LINE + LINE, "line 2: question 10 is answered a second time, first at"),
        (LINE + '{"questionId": "10", "prediction": "yes"}\n', "answered a second time"),
        ('{"question_id": "99", "text": "no"}\n', "none of the 1 answers belongs to a question"),
    ],
)
def test_answers(tmp_path, capfd, content, message):
    answers = tmp_path / "answers.jsonl"
    if content is not None:
        answers.write_bytes(content if isinstance(content, bytes) else content.encode())
    check(capfd, ["gqa", answers, files.write(tmp_path / "a.json", GQA)], message)


ANNOTATIONS = [
    ("gqa", None, "there is no such file"),
    ("gqa", [1], "is no JSON object with something in it; name testdev_balanced_questions.json"),
    ("gqa", {}, "is no JSON object with something in it"),
    ("gqa", {"10": 3}, "question 10: is no object"),
    ("gqa", {"10": {"question": "?"}}, "question 10: has no field 'answer'"),
    ("gqa", {"10": {"answer": ["no"]}}, "'answer' is ['no']; give a text"),
    ("vqav2", {"questions": []}, "has no field 'annotations'; there are questions"),
    ("vqav2", {"annotations": {}}, "'annotations' is {}; give a list"),
    ("vqav2", {"annotations": []}, "holds no annotation"),
    ("vqav2", {"annotations": [{"answers": []}]}, "annotation 1: has no field 'question_id'"),
    ("vqav2", {"annotations": [{"question_id": 1, "answers": []}]}, "annotation 1: 'answers' must be objects"),
    ("vqav2", {"annotations": [{"question_id": 1, "answers": ["a"]}]}, "annotation 1: 'answers' must be objects"),
    (
        "vqav2",
        {"annotations": [{"question_id": 10, "answers": [{"answer": word}]} for word in "ab"]},
        "questions 10 and 10 are the same, but their answers are ['a'] and ['b']; drop the wrong one",
    ),
    ("vqav2", {"annotations": [{"question_id": 1, "answers": None}]}, "has no field 'answers' that is filled"),
    (
        "gqa",
        {"10": {"answer": " "}},
        "question 10: has no field 'answer' that is filled; fetch the file again, or leave",
    ),
    ("gqa", '{"10": {"answer": NaN}}', "question 10: has no field 'answer' that is filled"),
    ("textvqa", {"data": [{"image_id": "a", "question": "?"}]}, "question 1: has no field 'answers' that is filled"),
    ("scienceqa", {"1": {**PROBLEM, "answer": None}}, "question 1: has no field 'answer' that is filled"),
    (
        "pope",
        [
            {"question_id": number, "image": "a", "text": "?", "label": label}
            for number, label in enumerate(("yes", "no"))
        ],
        "questions 0 and 1 are the same, but their answers are yes and no",
    ),
    ("textvqa", {"data": []}, "holds no question"),
    ("textvqa", {"data": [{"image_id": "a", "question": "?", "answers": TEN[:9]}]}, "must be exactly 10 texts"),
    ("textvqa", {"data": [{"question": "?", "answers": TEN}]}, "question 1: has no field 'image_id'"),
    ("scienceqa", {"1": {**PROBLEM, "answer": 2}}, "question 1: 'answer' is 2, but it has 2 choices"),
    ("scienceqa", {"1": {**PROBLEM, "image": None}}, "no question of split test has an image"),
    ("pope", [{"question_id": 1, "image": "a", "text": "?", "label": "maybe"}], "'label' is 'maybe'; give yes or no"),
    ("pope", [{"question_id": 1, "text": "?", "label": "no"}], "has no field 'image'"),
    ("mme", {}, "is no folder; name MME_Benchmark_release_version"),
]


@pytest.mark.parametrize(("benchmark", "content", "message"), ANNOTATIONS)
def test_annotations(tmp_path, capfd, benchmark, content, message):
    annotations = tmp_path / "annotations.json"
    if isinstance(content, str):
        annotations.write_text(content)
    elif content is not None:
        files.write(annotations, content)
    answers = files.answers(tmp_path / "answers.jsonl", [("10", "no")], ["?"])
    check(capfd, [benchmark, answers, annotations], message)


def test_folders_of_annotations(tmp_path, capfd):
    answers = files.answers(tmp_path / "answers.jsonl", [("existence/1.png", "no")], ["?"])
    (tmp_path / "empty").mkdir()
    check(capfd, ["pope", answers, tmp_path / "empty"], "holds no file coco_pope_*.json")
    check(capfd, ["mme", answers, tmp_path / "empty"], "holds no questions such as existence/*.txt")
    check(capfd, ["gqa", answers, tmp_path / "empty"], "is a directory; name a file")
    check(capfd, ["scienceqa", answers, tmp_path / "empty"], "problems.json: there is no such file")
    check(capfd, ["gqa", tmp_path / "empty", tmp_path], "is a directory; name a file")
    folder = files.mme_folder(tmp_path / "mme", {"existence": [("1", "Is there a dog? Yes\n")]})
    check(capfd, ["mme", answers, folder], "1.txt: line 1 is no question, tab, Yes or No")
    folder = files.mme_folder(tmp_path / "mme", {"existence": [("1", "Is there a dog?\tYes\n")]})
    without = files.answers(tmp_path / "without.jsonl", [("existence/1.png", "no")])
    check(capfd, ["mme", without, folder], "line 1: has no 'prompt'")


@pytest.mark.parametrize(
    ("rows", "drop", "message"),
    [
        ([], [], "holds no question"),
        ([ROW], ["answer"], "has no column 'answer'"),
        ([ROW], ["B"], "has no column 'B'"),
        ([{**ROW, "answer": "C"}], [], "row 1, index 1: 'answer' is 'C'; give one of A, B"),
        ([{**ROW, "answer": "AB"}], [], "row 1, index 1: 'answer' is 'AB'; give one of A, B"),
        ([ROW, {**ROW, "index": "2", "answer": ""}], [], "row 2, index 2: 'answer' is ''"),
        ([ROW, {**ROW, "index": "2", "answer": "nan"}], [], "row 2, index 2: 'answer' is 'nan'"),
        ([{**ROW, "answer": "nan"}], [], "has no column 'answer' that is filled"),
        ([ROW, {**ROW, "answer": "A"}], [], "questions 1 and 1 are the same"),
        ([{"index": "one", "question": "?", "A": "x", "B": "y"}], [], "row 1: 'index' is 'one'"),
        ([{"index": "1", "question": "?", "A": "x", "B": "nan"}], [], "row 1: has fewer than two options"),
    ],
)
def test_tables_of_mmbench(tmp_path, capfd, rows, drop, message):
    table = files.mmbench_table(tmp_path / "t.tsv", rows, drop)
    check(capfd, ["mmbench", files.answers(tmp_path / "a.jsonl", [(1, "A")]), table], message)


def test_tables_that_are_none(tmp_path, capfd):
    answers = files.answers(tmp_path / "a.jsonl", [(1, "A")])
    for content, message in (
        ("", "has no column 'index'"),
        ("index,question,image,A,B\n1,?,x,a,b\n", "has no column 'index'; name MMBench's table, with tabs"),
        ("index\tquestion\timage\tA\tB\n1\t?\n", "row 1 has 2 of 5 columns"),
    ):
        (tmp_path / "t.tsv").write_text(content)
        check(capfd, ["mmbench", answers, tmp_path / "t.tsv"], message)


def test_pope_questions_that_do_not_fit(tmp_path, capfd):
    folder = files.pope_annotations(tmp_path / "coco", {"random": [("a.jpg", "?", "yes")]})
    answers = files.answers(tmp_path / "a.jsonl", [(1, "Yes")])
    questions = files.questions(tmp_path / "q.jsonl", [(2, "a.jpg", "?", "random")])
    check(capfd, ["pope", answers, folder, "--questions", questions], "line 1: question 1 is not in")


def check(capfd, command: list, message: str) -> None:
    benchmark, answers, annotations, *more = map(str, command)
    before = sorted(Path(answers).parent.rglob("*"))
    assert main(["score", benchmark, "--answers", answers, "--annotations", annotations, *more]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert sorted(Path(answers).parent.rglob("*")) == before


ASKED = {"question_id": 1, "image": "a.png", "text": "What?"}


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "message"),
    [
        ("gqa", "q.jsonl", [], "is empty"),
        ("gqa", "q.jsonl", [{**ASKED, "image": 3}], "line 1: 'image' is 3; give a text"),
        ("gqa", "q.jsonl", [{"question_id": 1, "image": "a.png"}], "line 1: has no field 'text'"),
        ("gqa", "q.jsonl", [{"image": "a.png", "text": "?"}], "line 1: has no field 'question_id'"),
        ("gqa", "q.jsonl", [{**ASKED, "category": 3}], "'category' is 3; give a text"),
        ("gqa", "q.jsonl", [ASKED, {**ASKED, "text": "Who?"}], "question 1 stands there twice"),
        ("textvqa", "q.jsonl", [ASKED, {**ASKED, "text": "Who?"}, ASKED], "question 1 stands there twice"),
        ("mme", "q.jsonl", [{**ASKED, "question_id": "count/1.png"}] * 2, "question count/1.png stands there twice"),
        ("gqa", "q.jsonl", [{**ASKED, "image": "b.png"}], "none of the images is there, e.g. "),
        ("vqav2", "q.json", {"questions": []}, "has no field 'data_subtype'"),
        ("vqav2", "q.json", {"questions": [], "data_subtype": "val2014"}, "holds no question"),
        (
            "vqav2",
            "q.json",
            {"questions": [{"image_id": "1", "question_id": 1, "question": "?"}], "data_subtype": "val2014"},
            "question 1: 'image_id' is '1'; give a whole number",
        ),
        ("scienceqa", "q.json", [{"id": "1", "conversations": []}], "item 1: 'conversations' must begin"),
        ("scienceqa", "q.json", [{"id": "1", "conversations": [{"value": "?"}]}], "holds no question with an image"),
        ("scienceqa", "q.json", [{"id": "1", "image": "a.png", "conversations": [{}]}], "has no field 'value'"),
        ("textvqa", "q.jsonl", [ASKED], "no question has a line 'Reference OCR token:'"),
    ],
)
def test_questions(tmp_path, benchmark, file, content, message):
    files.images(tmp_path, ["a.png"])
    path = files.write(tmp_path / file, content)
    options = {"ocr": True} if benchmark == "textvqa" else {}
    with pytest.raises(InputError) as caught:
        build_benchmark(benchmark, **options).read_questions(path, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_mmbench_that_are_none(tmp_path):
    rows = [
        {"index": str(number), "question": "?", "A": "x", "B": "y", "image": image}
        for number, image in enumerate(("99", "?" * 100, "aGVsbG9o" * 20, "\u00e9" * 100))
    ]
    questions = build_benchmark("mmbench").read_questions(files.mmbench_table(tmp_path / "t.tsv", rows), Path())
    for question, message in zip(
        questions, ("is no image", "is no base64", "is no image", "is no base64"), strict=True
    ):
        with pytest.raises(InputError, match=f"image of index {question.question_id}: {message}"):
            question.load_image()

"""Benchmarks without a model: metrics by hand and against the official evaluators, pairing, prompts, uploads."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import openpyxl
import pytest

from data.benchmarks import BENCHMARKS, Answer, GroundTruth, build_benchmark, pair, read_answers, register_benchmark
from data.benchmarks.base import Benchmark
from data.benchmarks.choices import option_letter
from data.benchmarks.mme import yes_no_other
from data.benchmarks.pope import yes_no_measures, yes_or_no
from data.benchmarks.table import as_markdown, collect
from data.benchmarks.vqa_accuracy import normalize_answer, textvqa_accuracy, vqav2_accuracy
from data.errors import InputError
from mllm.cli import main
from tests import benchmark_files as files
from tests.benchmark_files import SHORT

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden/vqa_accuracy.json.gz").read_bytes()))


def scored(folder: Path, benchmark: str, answers: Path, annotations: Path, *more: str) -> dict:
    out = folder / "score.json"
    command = [
        "score",
        benchmark,
        "--answers",
        str(answers),
        "--annotations",
        str(annotations),
        "--json",
        str(out),
        *more,
    ]
    assert main(command) == 0
    return json.loads(out.read_text())


def by_id(score: dict) -> dict:
    return {item["question_id"]: item["score"] for item in score["items"]}


# -------------------------------------------------------------------------------------------------- VQAv2 and TextVQA


def test_vqav2_agrees_with_the_official_evaluator(tmp_path):
    items = GOLDEN["items"]
    said = [(number, item["prediction"]) for number, item in enumerate(items)]
    random.Random(0).shuffle(said)
    annotations = files.vqav2_annotations(
        tmp_path / "annotations.json", {number: item["answers"] for number, item in enumerate(items)}
    )
    score = scored(tmp_path, "vqav2", files.answers(tmp_path / "answers.jsonl", said), annotations)
    assert score["overall"] == pytest.approx(GOLDEN["overall_vqav2"], abs=1e-4)
    assert by_id(score) == {number: pytest.approx(item["vqav2"], abs=1e-3) for number, item in enumerate(items)}


@pytest.mark.parametrize("named_by", ["image", "id"])
def test_textvqa_agrees_with_the_official_evaluator(tmp_path, named_by):
    items = GOLDEN["items"]
    given = [
        (number, f"image{number // 2}", f"What is {number}?", item["answers"]) for number, item in enumerate(items)
    ]
    annotations = files.textvqa_annotations(tmp_path / "annotations.json", given)
    order = list(range(len(items)))
    random.Random(0).shuffle(order)
    if named_by == "image":  # two questions have one id, as in LLaVA's files
        said = [(f"image{number // 2}", items[number]["prediction"]) for number in order]
        prompts = [f"what IS {number}?\nReference OCR token: A, B{SHORT}" for number in order]
    else:
        said, prompts = [(number, items[number]["prediction"]) for number in order], None
    score = scored(tmp_path, "textvqa", files.answers(tmp_path / "answers.jsonl", said, prompts), annotations)
    assert by_id(score) == {number: pytest.approx(item["textvqa"], abs=1e-3) for number, item in enumerate(items)}
    assert "no OCR tokens" in score["metric"]


def test_vqa_accuracies_by_hand():
    answers = ["red"] * 3 + ["blue"] * 7
    assert vqav2_accuracy("red", answers) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqav2_accuracy("The Red", answers) == vqav2_accuracy("red", answers)
    assert vqav2_accuracy("green", answers) == 0
    assert vqav2_accuracy("Yes", ["yes"] * 10) == 0  # unanimous answers are compared as they are written
    assert textvqa_accuracy("Yes", ["yes"] * 10) == 1
    assert normalize_answer("The Cat's, two!") == "cat 's 2"
    periods = "a. " * 40
    assert normalize_answer(periods).count(".") == 8  # the 32 that re.UNICODE allows are gone


def test_vqav2_groups_by_type_and_counts_what_is_missing(tmp_path, caplog):
    annotations = files.vqav2_annotations(tmp_path / "a.json", {1: ["cat"] * 10, 2: ["dog"] * 10}, answer_type="other")
    score = scored(tmp_path, "vqav2", files.answers(tmp_path / "b.jsonl", [(2, "dog")]), annotations)
    assert by_id(score) == {1: 0, 2: 100}
    assert (score["overall"], score["unanswered"], score["count"]) == (50, 1, 2)
    assert score["groups"] == {"other": {"n": 2, "accuracy": 50}}
    assert "1 of 2 questions have no answer" in caplog.text


def test_vqav2_upload_has_every_id_of_the_split(tmp_path):
    files.images(tmp_path / "images", ["1.png"])
    asked = files.questions(
        tmp_path / "asked.jsonl", [(3, "1.png", f"Why?{SHORT}", "default"), (1, "1.png", "Who?", "default")]
    )
    split = files.write(tmp_path / "split.jsonl", [{"question_id": number} for number in (1, 2, 3)])
    benchmark = build_benchmark("vqav2", upload_questions=str(split))
    questions = benchmark.read_questions(asked, tmp_path / "images")
    assert [benchmark.prompt(each) for each in questions] == [f"Why?{SHORT}", f"Who?{SHORT}"]
    path = benchmark.write_upload(tmp_path, questions, [benchmark.submission("The Dog."), None])
    expected = [{"question_id": 1, "answer": ""}, {"question_id": 2, "answer": ""}, {"question_id": 3, "answer": "dog"}]
    assert json.loads(path.read_text()) == expected
    assert read_answers(path)[2] == Answer(3, "dog", where=f"{path}: item 3")
    files.write(split, [{"question_id": 1}])
    benchmark = build_benchmark("vqav2", upload_questions=str(split))
    with pytest.raises(InputError, match="lacks question 3"):
        benchmark.write_upload(tmp_path, questions, ["a", "b"])


def test_official_questions_of_vqav2(tmp_path):
    files.images(tmp_path / "images", ["COCO_val2014_000000000042.jpg"])
    record = {"image_id": 42, "question": "Is it?", "question_id": 42000}
    path = files.write(tmp_path / "q.json", {"data_subtype": "val2014", "questions": [record]})
    (question,) = build_benchmark("vqav2").read_questions(path, tmp_path / "images")
    assert (question.question_id, question.text, question.load_image().size) == (42000, "Is it?", (40, 32))


@pytest.mark.parametrize("ocr", [True, False])
def test_textvqa_prompt_with_and_without_ocr(tmp_path, ocr):
    files.images(tmp_path, ["a.jpg"])
    text = f"what is it?\nReference OCR token: STOP, 12{SHORT}"
    asked = files.questions(tmp_path / "q.jsonl", [("a", "a.jpg", text, "default")])
    benchmark = build_benchmark("textvqa", ocr=ocr)
    (question,) = benchmark.read_questions(asked, tmp_path)
    assert benchmark.prompt(question) == (text if ocr else f"what is it?{SHORT}")
    assert ("with OCR" in benchmark.metric) == ocr


# ------------------------------------------------------------------------------------------------------- GQA and POPE


def test_gqa(tmp_path):
    truth = {"10": ("no", "verify"), "11": ("Left", "choose"), "12": ("table", "choose")}
    annotations = files.write(
        tmp_path / "a.json",
        {name: {"answer": answer, "types": {"structural": kind}} for name, (answer, kind) in truth.items()},
    )
    answers = files.answers(tmp_path / "b.jsonl", [("12", "a table"), ("11", "left."), (10, "No")])
    score = scored(tmp_path, "gqa", answers, annotations)
    assert by_id(score) == {"10": 100, "11": 100, "12": 0}
    assert score["groups"] == {"verify": {"n": 1, "accuracy": 100}, "choose": {"n": 2, "accuracy": 50}}
    benchmark = build_benchmark("gqa")
    questions = [GroundTruth(name, None, ()) for name in ("10", "11")]
    path = benchmark.write_upload(tmp_path, questions, [benchmark.submission("No."), None])
    assert json.loads(path.read_text()) == [
        {"questionId": "10", "prediction": "no"},
        {"questionId": "11", "prediction": ""},
    ]
    assert scored(tmp_path, "gqa", path, annotations)["overall"] == pytest.approx(100 / 3, abs=1e-4)


def test_pope_takes_words_of_the_first_sentence():
    for text in ("No", "no, there is none", "There is not. Yes", "Yes, not that I know"):
        assert yes_or_no(text) == "no", text
    for text in ("Yes. No", "None", "NO", ""):
        assert yes_or_no(text) == "yes", text


def test_pope_measures_by_hand():
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "yes"), ("yes", None)]
    assert yes_no_measures(pairs) == {
        "n": 5,
        "accuracy": 20,
        "precision": pytest.approx(100 / 3),
        "recall": pytest.approx(100 / 3),
        "F1": pytest.approx(100 / 3),
        "share of yes": 75,  # of the predictions, not of the truth
    }
    left_out = yes_no_measures([("yes", "yes"), ("no", None)])
    assert (left_out["accuracy"], left_out["precision"], left_out["recall"]) == (50, 50, 100)
    assert (left_out["F1"], left_out["share of yes"]) == (pytest.approx(200 / 3), 100)
    never = yes_no_measures([("no", "no"), ("no", None)])
    assert (never["precision"], never["recall"], never["F1"], never["share of yes"]) == (0, 0, 0, 0)


POPE = {
    "random": [("a.jpg", "Is there a dog?", "yes"), ("b.jpg", "Is there a dog?", "no")],
    "popular": [("a.jpg", "Is there a car?", "no"), ("b.jpg", "Is there a dog?", "yes")],
}


def test_pope_of_llava_is_paired_by_content(tmp_path):
    """LLaVA numbers through, the annotations begin again, and the answers stand in another order."""
    annotations = files.pope_annotations(tmp_path / "coco", POPE)
    asked = [("popular", *POPE["popular"][1]), ("random", *POPE["random"][0]), ("popular", *POPE["popular"][0])]
    questions = files.questions(
        tmp_path / "q.jsonl",
        [(number, image, f"{text}{SHORT}", category) for number, (category, image, text, _) in enumerate(asked)],
    )
    prompts = [f"{text}{SHORT}" for _, _, text, _ in asked]
    answers = files.answers(tmp_path / "a.jsonl", [(0, "Yes"), (1, "Yes"), (2, "Yes")], prompts)
    score = scored(tmp_path, "pope", answers, annotations, "--questions", str(questions))
    assert by_id(score) == {"popular/1": 0, "popular/2": 100, "random/1": 100, "random/2": 0}
    assert score["unanswered"] == 1
    assert score["groups"]["popular"]["F1"] == pytest.approx(200 / 3, abs=1e-3)
    assert score["groups"]["random"]["F1"] == pytest.approx(200 / 3, abs=1e-3)  # "no" left out is a wrong "yes"
    assert score["overall"] == pytest.approx(200 / 3, abs=1e-3)


def test_pope_of_one_file_is_paired_by_id(tmp_path):
    folder = files.pope_annotations(tmp_path, POPE)
    answers = files.answers(tmp_path / "a.jsonl", [(2, "Yes"), (1, "Yes")])
    score = scored(tmp_path, "pope", answers, folder / "coco_pope_random.json")
    assert by_id(score) == {1: 100, 2: 0}
    assert list(score["groups"]) == ["random"]


def test_pope_counts_a_repeated_question_once(tmp_path, caplog):
    """One of the published files holds one; whoever asks all of its lines answers it twice."""
    lines = [
        ("0.png", "Is there a cat?", "yes"),
        ("0.png", "Is there a dog?", "no"),
        ("0.png", "Is there a cat?", "yes"),
    ]
    annotations = files.pope_annotations(tmp_path / "coco", {"adversarial": lines})
    asked = [(number, image, text, "adversarial") for number, (image, text, _) in enumerate(lines, 1)]
    questions = files.questions(tmp_path / "q.jsonl", asked)
    read = build_benchmark("pope").read_questions(questions, files.images(tmp_path, ["0.png"]))
    assert [question.question_id for question in read] == [1, 2, 3]
    for name, texts in (("all", {1: "Yes", 2: "Yes", 3: "Yes"}), ("some", {3: "Yes", 2: "Yes"})):
        answers = files.answers(tmp_path / f"{name}.jsonl", texts.items())
        for more in ([], ["--questions", str(questions)]):
            score = scored(tmp_path, "pope", answers, annotations, *more)
            assert by_id(score) == {"adversarial/1": 100, "adversarial/2": 0}
            assert (score["count"], score["unanswered"]) == (2, 0)
    assert "no answer" not in caplog.text


def test_questions_as_people_write_them(tmp_path):
    """A placeholder for the image, ids of a table of numbers, categories left blank."""
    lines = [
        {"question_id": 1.0, "image": "0.png", "text": f"<image>\nIs it red?{SHORT}", "category": None},
        {"question_id": 2.0, "image": r"in\0.png", "text": "Is it blue?\n<image>", "category": math.nan},
    ]
    files.images(tmp_path, ["0.png", "in/0.png"])
    for name in ("gqa", "textvqa", "pope", "mme", "vqav2"):
        benchmark = build_benchmark(name)
        questions = benchmark.read_questions(files.write(tmp_path / "q.jsonl", lines), tmp_path)
        assert [benchmark.prompt(each) for each in questions] == [f"Is it red?{SHORT}", f"Is it blue?{SHORT}"]
        assert [(str(each.question_id), each.category) for each in questions] == [("1", ""), ("2", "")]
        assert [each.load_image().tobytes() for each in questions] == [files.image(seed).tobytes() for seed in (0, 1)]
    truths = files.write(tmp_path / "a.json", {"1": {"answer": "yes"}, "2": {"answer": "no"}})
    answers = files.answers(tmp_path / "b.jsonl", [(1.0, "yes"), (2.0, "yes")])
    assert by_id(scored(tmp_path, "gqa", answers, truths)) == {"1": 100, "2": 0}


def test_pope_refuses_to_guess_the_question(tmp_path, capfd):
    folder = files.pope_annotations(tmp_path, POPE)
    answers = files.answers(tmp_path / "a.jsonl", [(1, "Yes")])
    assert main(["score", "pope", "--answers", str(answers), "--annotations", str(folder)]) == 2
    assert "fits 2 annotations; drop what stands there twice, or name the questions" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------- RefCOCO


REFCOCO = [
    {"image": "0.png", "sent": "left guy", "bbox": [10, 0, 20, 20], "width": 100, "height": 50},
    {"image": "0.png", "sent": "ball ", "bbox": [50.5, 25, 100, 50], "width": 100, "height": 50},
    {"image": "0.png", "sent": "sky", "bbox": [0, 0, 100, 10], "width": 100, "height": 50},
    {"image": "0.png", "sent": "dog", "bbox": [0, 0, 100, 50], "width": 100, "height": 50},
]


def test_refcoco(tmp_path):
    file, images = files.write(tmp_path / "refcoco_val.jsonl", REFCOCO), files.images(tmp_path, ["0.png"])
    said = [
        (1, "The guy is at [100, 0, 200, 201]."),  # of 50 pixels: half of the box, just above 0.5
        (2, "[500, 500, 1000, 1000] and [0, 0, 1, 1]"),
        (3, "[0, 0, 99, 200], or [0, 0, 1000, 200]"),  # the first counts
        (4, "[500, 500]"),
    ]
    score = scored(tmp_path, "refcoco", files.answers(tmp_path / "a.jsonl", said), file)
    assert by_id(score) == {1: 100, 2: 100, 3: 0, 4: 0}
    assert (score["overall"], score["metric"]) == (50, "accuracy at IoU 0.5")
    benchmark = build_benchmark("refcoco", template="Where is the {}?")
    questions = benchmark.read_questions(file, images)
    assert [benchmark.prompt(each) for each in questions][:2] == ["Where is the left guy?", "Where is the ball?"]
    assert benchmark.own_ground_truth(questions) == benchmark.read_ground_truth(file)
    assert build_benchmark("refcoco").read_questions(file, images)[0].text.endswith("this sentence describes: left guy")
    with pytest.raises(InputError, match="--template 'Where'"):
        build_benchmark("refcoco", template="Where")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": None}, "lacks 'width' or 'height'"),
        ({"bbox": [20, 0, 10, 20]}, r"'bbox' is \[20, 0, 10, 20\] in an image of 100x50"),
        ({"bbox": [0, 0, 10]}, "'bbox' is"),
        ({"height": 0}, "'bbox' is"),
        ({"sent": 3}, "'sent' is 3; give a text"),
    ],
)
def test_refcoco_refuses_what_is_no_box(tmp_path, change, message):
    file = files.write(tmp_path / "q.jsonl", [REFCOCO[1], {**REFCOCO[0], **change}])
    with pytest.raises(InputError, match=rf"q\.jsonl: line 2.*{message}"):
        build_benchmark("refcoco").read_questions(file, files.images(tmp_path, ["0.png"]))


# ------------------------------------------------------------------------------------- ScienceQA, MME, MMBench


def test_option_letter():
    for text in ("B", " B ", "B. a dog", "The answer is B.", "I think. The answer is B. Really."):
        assert option_letter(text, "ABC") == "B", text
    for text in ("The answer is A. The answer is B.", "The answer is B", "B.", "b", "(B)", "D", "", "Because"):
        assert option_letter(text, "ABC") is None, text


def test_scienceqa_img(tmp_path):
    problem = {"choices": ["x", "y", "z"], "subject": "natural science", "split": "test", "image": "image.png"}
    problems = {
        "1": {**problem, "answer": 1},
        "2": {**problem, "answer": 2},
        "3": {**problem, "answer": 0},
        "4": {**problem, "answer": 0, "image": None},
        "5": {**problem, "answer": 0, "split": "train"},
    }
    annotations = files.write(tmp_path / "problems.json", problems)
    answers = files.answers(tmp_path / "a.jsonl", [("4", "A"), ("2", "B"), ("1", "B. y")])
    score = scored(tmp_path, "scienceqa", answers, annotations.parent)
    assert by_id(score) == {"1": 100, "2": 0, "3": 0}
    assert score["unanswered"] == 1


def test_scienceqa_asks_what_has_a_image(tmp_path):
    files.images(tmp_path, ["1/image.png"])
    turns = [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}, {"from": "gpt", "value": "The answer is A."}]
    records = [{"id": "1", "image": "1/image.png", "conversations": turns}, {"id": "2", "conversations": turns}]
    benchmark = build_benchmark("scienceqa")
    (question,) = benchmark.read_questions(files.write(tmp_path / "q.json", records), tmp_path)
    assert benchmark.prompt(question) == (
        "Which?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )


MME = {
    "existence": [
        ("0001", "Is there a dog? Please answer yes or no.\tYes\nIs there a cat? Please answer yes or no.\tNo\n"),
        ("0002", "Is there a car?  Please answer yes or no.\tYes\nIs there a bus? Please answer yes or no.\tNo\n"),
    ],
    "artwork": [("7", "Is it by A? Please answer yes or no.\tYes\nIs it by B? Please answer yes or no.\tNo\n")],
    "code_reasoning": [("1", "Is it C? Please answer yes or no.\tYes\nIs it D? Please answer yes or no.\tNo\n")],
}


def test_mme_by_hand(tmp_path):
    folder = files.mme_folder(tmp_path / "mme", MME, nested=["artwork"])
    said = [
        ("existence/0002.png", "Is there a bus?", "Yes"),  # wrong
        ("existence/0001.png", "Is there a cat?", "No."),
        ("existence/0001.png", "Is there a dog? Please answer yes or no.", "yes, there is"),
        ("existence/0002.png", "Is there a car?", "yes"),
        ("artwork/images/7.jpg", "Is it by A?", "I do not know"),  # neither
        ("artwork/images/7.jpg", "Is it by B?", "no"),
        ("code_reasoning/1.png", "Is it C?", "yes"),
    ]
    answers = files.answers(
        tmp_path / "a.jsonl", [(name, text) for name, _, text in said], [f"{text}{SHORT}" for _, text, _ in said]
    )
    score = scored(tmp_path, "mme", answers, folder)
    assert score["groups"] == {
        "existence": {"n": 4, "accuracy": 75, "accuracy+": 50, "points": 125},
        "artwork": {"n": 2, "accuracy": 50, "accuracy+": 0, "points": 50},
        "code_reasoning": {"n": 2, "accuracy": 50, "accuracy+": 0, "points": 50},
        "perception": {"n": 6, "points": 175},
        "cognition": {"n": 2, "points": 50},
    }
    assert (score["overall"], score["unanswered"]) == (175, 1)
    assert [yes_no_other(text) for text in ("Yes", " no", "not", "I do not", "")] == [
        "yes",
        "no",
        "no",
        "other",
        "other",
    ]


def test_mme_writes_what_the_official_script_reads(tmp_path):
    benchmark = build_benchmark("mme")
    truths = benchmark.read_ground_truth(files.mme_folder(tmp_path / "mme", {"existence": MME["existence"][:1]}))
    out = benchmark.write_upload(tmp_path, [], [], [(truths[0], "Yes\tit is"), (truths[1], None)])
    assert (out / "existence.txt").read_text() == (
        "0001.txt\tIs there a dog? Please answer yes or no.\tYes\tYes it is\n"
        "0001.txt\tIs there a cat? Please answer yes or no.\tNo\t\n"
    )


ROWS = [
    {"index": "5", "question": "Which?", "hint": "Look.", "A": "x", "B": "y", "answer": "B", "category": "ocr"},
    {"index": "1000005", "question": "Which?", "A": "y", "B": "x", "C": "nan", "answer": "A", "category": "ocr"},
    {"index": "8", "question": "Who?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "D", "category": "logic"},
]


def test_mmbench_counts_a_question_if_all_its_rotations_are_right(tmp_path):
    table = files.mmbench_table(tmp_path / "t.tsv", ROWS)
    answers = files.answers(tmp_path / "a.jsonl", [(8, "D. 4"), (1000005, "B"), (5, "B")])
    score = scored(tmp_path, "mmbench", answers, table)
    assert by_id(score) == {5: 100, 1000005: 0, 8: 100}
    assert score["groups"] == {
        "ocr": {"n": 1, "accuracy": 0},
        "logic": {"n": 1, "accuracy": 100},
        "each rotation": {"n": 3, "accuracy": pytest.approx(200 / 3, abs=1e-3)},
    }
    assert score["overall"] == 50


def test_mmbench_prompt_images_and_spreadsheet(tmp_path):
    rows = [*ROWS[:2], {**ROWS[2], "image": "5"}]  # a row may point to another one's image
    benchmark = build_benchmark("mmbench")
    questions = benchmark.read_questions(files.mmbench_table(tmp_path / "t.tsv", rows), Path())
    suffix = "\nAnswer with the option's letter from the given choices directly."
    assert [benchmark.prompt(each) for each in questions[:2]] == [
        f"Look.\nWhich?\nA. x\nB. y{suffix}",
        f"Which?\nA. y\nB. x{suffix}",
    ]
    assert questions[2].load_image().tobytes() == questions[0].load_image().tobytes() == files.image(0).tobytes()
    assert [truth.value for truth in benchmark.own_ground_truth(questions)] == [("AB", "B"), ("AB", "A"), ("ABCD", "D")]
    for blank in ("", "nan"):
        test = files.mmbench_table(tmp_path / "test.tsv", [{**row, "answer": blank} for row in rows])
        assert benchmark.own_ground_truth(benchmark.read_questions(test, Path())) is None
    path = benchmark.write_upload(tmp_path, questions, ["=B", 'A < "1"\x00\ud83d', None])
    assert list(openpyxl.load_workbook(path).active.values) == [
        ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split"),
        (5, "Which?", "x", "y", None, None, "=B", "B", None),
        (1000005, "Which?", "y", "x", "nan", None, 'A < "1" ?', "A", None),
        (8, "Who?", "1", "2", "3", "4", None, "D", None),
    ]
    assert openpyxl.load_workbook(path).active["G2"].data_type == "s"  # what begins with = is no formula


# ------------------------------------------------------------------------------------------------------------ pairing


def test_answers_with_an_error_are_missing(tmp_path):
    lines = [
        {"question_id": "10", "text": "no", "metadata": {}},
        {"question_id": "11", "text": "yes", "metadata": {"error": "a.png: is broken"}},
    ]
    annotations = files.write(tmp_path / "a.json", {"10": {"answer": "no"}, "11": {"answer": "yes"}})
    score = scored(tmp_path, "gqa", files.write(tmp_path / "b.jsonl", lines), annotations)
    assert by_id(score) == {"10": 100, "11": 0}
    assert score["unanswered"] == 1


def test_only_what_was_asked():
    benchmark = build_benchmark("gqa")
    truths = [GroundTruth(name, "no", (("id", name),)) for name in ("1", "2", "3")]
    answers = [Answer("3", "no"), Answer("1", None), Answer("9", "no")]
    assert pair(benchmark, truths, answers, asked_only=True) == [(truths[0], None), (truths[2], "no")]
    assert pair(benchmark, truths, answers) == [(truths[0], None), (truths[1], None), (truths[2], "no")]


def test_registry():
    ours = "gqa mmbench mme pope refcoco scienceqa textvqa vqav2"  # then those that are generated
    assert list(BENCHMARKS) == [*ours.split(), "synthetic", "drawings", "stamps"]
    with pytest.raises(InputError, match=r"unknown benchmark 'vqa'; there are gqa, .*vqav2"):
        build_benchmark("vqa")
    with pytest.raises(InputError, match="--ocr is no option of gqa"):
        build_benchmark("gqa", ocr=True)

    class Again(Benchmark):
        name = "gqa"

    with pytest.raises(ValueError, match="'gqa' exists already"):
        register_benchmark(Again)


# -------------------------------------------------------------------------------------------------------- results


RESULT = (
    '{"model": "m", "benchmark": "gqa", "metric": "accuracy", "count": 1, "tokens_per_image": 4, '
    '"seconds_per_question": 0.1, "overall": %s}'
)


def test_table_of_results(tmp_path):
    fields = {"metric": "accuracy", "count": 3, "tokens_per_image": 16, "seconds_per_question": 0.25, "more": 1}
    files.write(tmp_path / "b/pope/result.json", {"model": "b", "benchmark": "pope", "overall": 81.234, **fields})
    files.write(tmp_path / "a/result.json", {"model": "a|b", "benchmark": "vqav2", "overall": None, **fields})
    rows = collect([tmp_path, tmp_path / "a"])
    assert [(row["model"], row["overall"]) for row in rows] == [("a|b", None), ("b", 81.234)]
    assert as_markdown(rows).splitlines() == [
        "| model | benchmark | score | what the score is | questions | tokens/image | s/question |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
        r"| a\|b | vqav2 |  | accuracy | 3 | 16 | 0.250 |",
        "| b | pope | 81.23 | accuracy | 3 | 16 | 0.250 |",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no result.json there"),
        ("[]", "no JSON object"),
        ('{"model": "m"}', "has no field 'benchmark'"),
        (RESULT % ("1" + 400 * "0"), "'overall' is 1000000.* … 0*; give a number"),
        (RESULT % "NaN", "'overall' is nan; give a number"),
        (RESULT % "-Infinity", "'overall' is -inf; give a number"),
        (RESULT % "true", "'overall' is True; give a number"),
    ],
)
def test_results_that_are_none(tmp_path, content, message):
    if content:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match=message):
        collect([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        collect([tmp_path / "none"])

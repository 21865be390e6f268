"""The plug-in for lmms-eval: its messages and options in our words; with lmms-eval itself, a task of local scenes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from PIL import Image

from data.errors import InputError
from mllm.evaluation.lmms_requests import conversation_of, read_generation_kwargs
from tests import tiny


def test_messages_become_a_conversation(tmp_path):
    tiny.image(1).save(tmp_path / "b.png")
    clear = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    conversation = conversation_of(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "url": clear},
                    {"type": "text", "text": "Like this one?"},
                    {"type": "image", "url": str(tmp_path / "b.png")},
                ],
            },
        ]
    )
    assert conversation["messages"] == [
        tiny.system("Be brief."),
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Like this one?"}, {"type": "image"}]},
    ]
    assert [image.mode for image in conversation["images"]] == ["RGB", "RGB"]
    assert conversation["images"][0].getpixel((0, 0)) == (255, 255, 255)
    assert conversation["images"][1].tobytes() == tiny.image(1).tobytes()


def test_what_is_no_text_and_no_image_is_refused(tmp_path):
    def user(**part):
        return [{"role": "user", "content": [part]}]

    with pytest.raises(InputError, match=r"message 1: holds a part 'video'; this model takes text and images"):
        conversation_of(user(type="video", url="a.mp4"))
    with pytest.raises(InputError, match=r"none.png: there is no such image"):
        conversation_of(user(type="image", url=str(tmp_path / "none.png")))


@pytest.mark.parametrize(
    ("asked", "decoding"),
    [
        ({}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 0.2, "top_p": 1.0, "num_beams": 1}, {"do_sample": False, "num_beams": 1}),
        ({"do_sample": True, "temperature": 0, "top_p": 0}, {"do_sample": False}),
        ({"temperature": 0.2, "top_p": 0.9, "top_k": None}, {"do_sample": True, "temperature": 0.2, "top_p": 0.9}),
        ({"do_sample": True}, {"do_sample": True, "temperature": 1.0}),
        ({"repetition_penalty": 1.2}, {"do_sample": False, "repetition_penalty": 1.2}),
    ],
)
def test_decoding(asked, decoding):
    assert read_generation_kwargs(asked, None).decoding == decoding


def test_lengths_and_ends():
    request = read_generation_kwargs({"max_new_tokens": 4096, "until": ["\n\n", ""], "image_aspect_ratio": "pad"}, 512)
    assert (request.max_new_tokens, request.stop, request.unknown) == (256, ("\n\n",), ("image_aspect_ratio",))
    assert read_generation_kwargs({"until": "."}, None).stop == (".",)
    assert read_generation_kwargs({"max_new_tokens": 16}, 512).max_new_tokens == 16
    assert read_generation_kwargs({"max_new_tokens": 4096}, None).max_new_tokens == 4096


def test_stop(model_dir):
    from mllm.generation import answer, question
    from mllm.loading import load_model

    model, processor = load_model(model_dir, "cpu")
    asked = [question("Is it red?", [tiny.image(0)]), question("How many squares are there?", [tiny.image(1)])]
    whole = answer(model, processor, asked, 8)
    end = re.findall("[a-z]{2}", whole[0])[0]
    steps = []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    assert answer(model, processor, asked, 8, stop=[end]) == [text.partition(end)[0].strip() for text in whole]
    assert len(steps) == 8  # the other one goes on
    assert answer(model, processor, asked[:1], 8, stop=["never", end]) == [whole[0].partition(end)[0].strip()]
    hook.remove()
    assert len(steps) < 16


TASK = """\
task: local_scenes
dataset_path: parquet
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_visual: !function local_scenes.images
doc_to_text: !function local_scenes.text
doc_to_target: !function local_scenes.truth
process_results: !function local_scenes.right
generation_kwargs: {max_new_tokens: 8, temperature: 0, do_sample: false, until: [e]}
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
"""
# The questions differ in length; the last one is about no image, and the third cannot be asked.
FUNCTIONS = """\
def images(doc):
    return [] if doc["index"] == 3 else [doc["image"]]

def text(doc):
    return "How many objects are there?" + " Count." * doc["index"] + "\ufdd0" * (doc["index"] == 2)

def truth(doc):
    return str(len(doc["objects"]))

def right(doc, results):
    return {"right": float(results[0] == truth(doc))}
"""


@pytest.fixture
def lmms_eval():
    """What of lmms-eval is used, with our model registered as its entry point does."""
    pytest.importorskip("lmms_eval", reason="the extra eval is not installed")
    from lmms_eval import evaluator, models, tasks

    from mllm.evaluation.lmms_requests import manifest

    models.MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    return SimpleNamespace(evaluate=evaluator.simple_evaluate, TaskManager=tasks.TaskManager)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_local_task(lmms_eval, batch_size, model_dir, tmp_path, monkeypatch, caplog):
    from data.images import to_rgb
    from data.synthetic.export import export_scenes
    from data.synthetic.scene import SceneConfig
    from mllm.generation import answer, question
    from mllm.loading import load_model

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    config = SceneConfig(height=tiny.IMAGE_SIZE, width=tiny.IMAGE_SIZE)
    export_scenes(tmp_path / "scenes", "parquet", "test", 4, config)
    (data,) = (tmp_path / "scenes/data").iterdir()
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "local_scenes.yaml").write_text(TASK.replace("DATA", str(data)))
    (tasks / "local_scenes.py").write_text(FUNCTIONS)
    results = lmms_eval.evaluate(
        model="mllm",
        model_args=f"pretrained={model_dir}",
        tasks=["local_scenes"],
        task_manager=lmms_eval.TaskManager(include_path=str(tasks), include_defaults=False, model_name="mllm"),
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["local_scenes"], key=lambda sample: sample["doc_id"])
    said = [sample["filtered_resps"][0] for sample in samples]

    model, processor = load_model(model_dir, "cpu")
    scenes = {}
    exec(FUNCTIONS, scenes)
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(data), split="train")
    for number, row in enumerate(rows):
        if number == 2:
            assert said[number] == ""
            continue
        asked = question(scenes["text"](row), [to_rgb(each) for each in scenes["images"](row)])
        assert said[number] == answer(model, processor, [asked], 8)[0].partition("e")[0].strip()
    assert len(set(said)) > 2
    assert "local_scenes 2 was not asked: message 1: the text holds" in caplog.text
    assert "1 of 4 requests could not be asked" in caplog.text

"""Models outside of Python: the same tokens, and the same answers, from ONNX Runtime."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from data import InputError
from data.files import read_json
from encoder import SparseFormerVisionModel
from encoder.configuration import bootstrapped_units
from encoder.exporting import FORMATS, Runner, encoder_graph
from mllm.exporting.graphs import vision_graph
from mllm.exporting.layout import TOLERANCE, export
from mllm.exporting.web import add_page
from mllm.generation import answer, prepare, question
from mllm.loading import load_model
from tests import tiny
from tests.shapes import EXAMPLES, MODEL


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    return folder, export(MODEL, folder, "onnx")


@pytest.fixture(scope="module")
def embedded():
    return load_model(MODEL, "cpu", "float32")


def test_graphs_compute_what_the_model_does(exported):
    folder, report = exported
    assert list(report) == ["vision_encoder", "embed_tokens", "decoder_model_merged"]
    assert all(each < TOLERANCE for row in report.values() for each in row["differences"].values())
    assert sum(row["bytes"] for row in report.values()) == sum(f.stat().st_size for f in (folder / "onnx").iterdir())


@torch.no_grad()
def test_other_sizes_of_batch_and_image(exported, embedded):
    run = Runner(exported[0] / "onnx" / f"vision_encoder{FORMATS['onnx']}", threads=1)
    for batch, height, width in ((1, 64, 64), (3, 96, 48)):
        images = torch.randn(batch, 3, height, width)
        found, expected = run(pixel_values=images), vision_graph(embedded[0]).module(images)
        for name, value in expected.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=1e-3, atol=1e-4)


def test_answers_with_a_cache(exported, embedded):
    """What whoever runs the graphs has to do, as transformers.js does it."""
    (folder, _), (model, processor) = exported, embedded
    vision, embed, decode = (Runner(folder / "onnx" / f"{name}.onnx", threads=1) for name in exported[1])
    config = read_json(folder / "config.json")
    for name, text in (("scene-1", "what colour is the circle?"), ("scene-2", "describe the picture.")):
        asked = question(text, [Image.open(EXAMPLES / f"{name}.png")])
        inputs = prepare(processor, [asked])
        ids = inputs["input_ids"].numpy()
        embeds = embed(input_ids=ids)["inputs_embeds"].copy()
        features = vision(pixel_values=inputs["pixel_values"])["image_features"]
        embeds[ids == config["image_token_index"]] = features.reshape(-1, embeds.shape[-1])
        heads, width = config["text_config"]["num_key_value_heads"], config["text_config"]["head_dim"]
        cache = {each: np.zeros((1, heads, 0, width), np.float32) for each in decode.inputs if "past" in each}
        length, said = ids.shape[1], []
        positions = np.arange(length)[None]
        while len(said) < 12:
            mask = np.ones((1, length), np.int64)
            found = decode(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, **cache)
            if (token := int(found["logits"][0, -1].argmax())) == config["eos_token_id"]:
                break
            said.append(token)
            cache = {each: found[each.replace("past_key_values", "present")] for each in cache}
            embeds, positions, length = embed(input_ids=[[token]])["inputs_embeds"], [[length]], length + 1
        told = processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert told == answer(model, processor, [asked], max_new_tokens=12)[0]


def test_to_others_it_is_a_llava(exported, embedded):
    folder, _ = exported
    processor = embedded[1]
    names = ("config", "preprocessor_config", "processor_config")
    config, images, words = (read_json(folder / f"{name}.json") for name in names)
    assert config["model_type"] == "llava"
    assert words["patch_size"] == images["crop_size"]["height"] == 64
    assert 1 + words["num_additional_image_tokens"] == config["image_seq_length"] == processor.num_image_tokens
    written, messages = read_json(folder / "tokenizer_config.json")["chat_template"], [tiny.user("What?", images=1)]
    for template in (written, processor.chat_template):  # the first without what transformers.js does not know
        text = processor.tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        assert "<image>\nWhat?" in text
    assert "dict(" not in written


def test_another_number_of_tokens_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--tokens=5: an image of this model always has 16"):
        export(MODEL, tmp_path / "out", "onnx", "vision", num_tokens=5)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_number_of_tokens_is_an_input():
    """By `torch.export` alone, which is where a number could become a constant."""
    changes = {"nested_tokens": True, "num_latent_tokens": 12, "units": bootstrapped_units(16, 32, 1, repeats=1)}
    model = SparseFormerVisionModel(tiny.sparseformer_config(hidden_act="quick_gelu", **changes)).eval()
    graph = encoder_graph(model)
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in graph.dimensions.items()}
    program = torch.export.export(graph.module, (), graph.inputs, dynamic_shapes=shapes).module()
    for batch, height, width, count in ((1, 32, 32, 3), (3, 48, 40, 13)):
        images = torch.randn(batch, 3, height, width)
        found = program(pixel_values=images, num_tokens=torch.tensor(count))
        expected = model(images, num_tokens=count)
        torch.testing.assert_close(found["last_hidden_state"], expected.last_hidden_state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["rois"], expected.rois)


@pytest.mark.browser
def test_a_page_answers(exported, embedded, chromium, tmp_path):
    """All of it in a real browser, which may load nothing from elsewhere."""
    shutil.copytree(exported[0], tmp_path / "model")
    add_page(tmp_path)
    asked = question("what colour is the circle?", [Image.open(EXAMPLES / "scene-1.png")])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chromium.get(f"http://127.0.0.1:{server.server_port}/")
        chromium.find_element("name", "image").send_keys(str(EXAMPLES / "scene-1.png"))
        button = chromium.find_element("tag name", "button")
        wait = WebDriverWait(chromium, 180)
        wait.until(lambda _: button.is_enabled())
        button.click()
        wait.until(lambda _: "First token" in chromium.find_element("id", "state").text)
        said = chromium.find_element("id", "answer").text
        boxes = chromium.find_element("tag name", "canvas").get_attribute("data-boxes")
        server.shutdown()
    assert said == answer(*embedded, [asked])[0]
    assert int(boxes) == embedded[1].num_image_tokens
    assert chromium.get_log("browser") == []

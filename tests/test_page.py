"""The page that `mllm serve` comes with, in a real Chromium: what a person does, and what a person sees."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from data.conversations import load_conversations
from data.images import open_image
from mllm.commands.demo import read_examples
from mllm.explanation import explain
from mllm.generation import answer, question
from mllm.loading import load_model
from mllm.serving.batch import Batch
from mllm.serving.limits import Limits
from tests import tiny
from tests.served import serving
from tests.shapes import EXAMPLES, MODEL

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The embedded model's, whose answers are words."""
    with serving(MODEL, folder=EXAMPLES, examples=read_examples(EXAMPLES)) as address:
        yield address


@pytest.fixture(scope="module")
def elastic(tmp_path_factory, bpe_language_model_dir) -> Path:
    """A model that takes 2 to 9 tokens for an image, and whose answers do not end."""
    folder = tmp_path_factory.mktemp("elastic")
    encoder = tiny.sparseformer(folder / "encoder", nested_tokens=True, num_latent_tokens=8)
    return tiny.model(folder / "model", encoder, bpe_language_model_dir)


@pytest.fixture(scope="module")
def elastic_url(elastic) -> Iterator[str]:
    with serving(elastic, Limits(tokens=400)) as address:
        yield address


class Page:
    """The page in a browser, and what a person can do with it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def visit(self, address: str) -> None:
        """Opens the page as it is met first: nothing is kept of earlier tests."""
        self.driver.get(f"{address}/icon.svg")
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
        self.driver.execute_script("sessionStorage.clear()")
        self.open(address)

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.find("body[data-ready]"))

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, holds: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 30, 0.05).until(lambda _: holds())

    def script(self, text: str, *arguments: Any) -> Any:
        """The value of an `async` function with this body, whose arguments are ``given``."""
        wrapped = (
            f"const [done, ...given] = [arguments[arguments.length - 1], ...arguments]; (async () => {{{text}}})()"
        )
        return self.driver.execute_async_script(f"{wrapped}.then(done, (problem) => done(String(problem)))", *arguments)

    def upload(self, *numbers: int) -> None:
        self.one("#picker").send_keys("\n".join(str(EXAMPLES / f"scene-{number}.png") for number in numbers))
        self.until(lambda: len(self.find("#tray img")) == len(numbers))

    def prefer(self, **values: Any) -> None:
        """Sets preferences, as the settings do, before the page is opened again."""
        self.script("localStorage.setItem('mllm.preferences', given[0])", json.dumps(values))
        self.open(self.driver.current_url)

    def ask(self, text: str) -> str:
        """Asks, and returns the answer when it is there, explained."""
        count = len(self.find(".answer"))
        self.one("#question").send_keys(text + Keys.ENTER)
        self.until(lambda: len(self.find(".answer[aria-busy=false]")) == count + 1)
        return self.answers()[-1]

    def answers(self) -> list[str]:
        return [element.text for element in self.find(".answer .text")]

    def stats(self) -> str:
        return self.find(".answer .stats")[-1].text.replace("\n", " ")


@pytest.fixture
def page(chromium, url) -> Iterator[Page]:
    shown = Page(chromium)
    shown.visit(url)
    yield shown
    failed = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert [each for each in failed if "/v1/" not in each and "favicon" not in each] == []  # CSP, exceptions


@pytest.fixture(scope="module")
def loaded():
    return load_model(MODEL, "cpu")


def scene(number: int) -> Image.Image:
    return open_image(EXAMPLES / f"scene-{number}.png")


def test_upload_ask_and_reload(page, loaded):
    page.upload(1, 2)
    said = page.ask("describe the picture.")
    assert said == answer(*loaded, [question("describe the picture.", [scene(1), scene(2)])])[0]
    assert f"{2 * loaded[1].num_image_tokens} image tokens" in page.stats()
    assert "first token" in page.stats()
    assert "tokens/s" in page.stats()
    page.ask("what colour is the star?")
    before = page.answers()
    page.open(page.driver.current_url)
    assert page.answers() == before
    assert len(page.find(".question img")) == 2
    assert page.one(".talk").text == "describe the picture."


def test_a_word_shows_its_place(page, loaded):
    """The drawing is that of `explain`: where the heat is highest, and which words a place belongs to."""
    page.upload(1)
    said = page.ask("describe the picture.")
    words = page.find(".viewed .word")
    assert page.one("#told").text.startswith(f"{loaded[1].num_image_tokens} tokens looked at it.")
    found = explain(*loaded, question("describe the picture.", [scene(1)]), said, resolution=32)
    assert [word.text for word in words] == found.words
    plain = page.one("#drawing").screenshot_as_base64
    ActionChains(page.driver).move_to_element(words[0]).perform()
    assert page.one("#told").text.startswith(f"“{found.words[0]}” comes mostly from the ")
    assert page.one("#drawing").screenshot_as_base64 != plain

    heats = page.script("""
        const { heat } = await import("/heat.js");
        const [talk] = await (await import("/store.js")).load();
        const { images, words } = talk.turns[1].looked;
        return words.map((word) => [...heat(images[0], word.weights[0]).values]);
    """)
    for mine, heat in zip(heats, found.heat(0).flatten(1).tolist(), strict=True):
        assert mine == pytest.approx(heat, abs=0.02 * max(heat) + 1e-6)

    page.one("#density").click()
    ActionChains(page.driver).move_to_element(page.one("#drawing")).perform()
    assert any(float(word.get_attribute("style").split()[-1].rstrip(";")) > 0 for word in words)


def test_words_by_keyboard(page):
    page.upload(1)
    page.ask("describe the picture.")
    words = page.find(".viewed .word")
    assert len(words) > 1
    assert [word.get_attribute("tabindex") for word in words].count("0") == 1
    page.driver.execute_script("arguments[0].focus()", words[0])
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element == words[1]
    assert f"“{words[1].text}”" in page.one("#spoken").get_attribute("textContent")  # read out


def test_sliders(page, elastic_url, elastic):
    """Fewer tokens, another resolution: both change what is asked, and the answer says what it took."""
    page.visit(elastic_url)
    page.prefer(longest=8)
    tokens = page.one("#tokens")
    assert [tokens.get_attribute(name) for name in ("min", "max")] == ["2", "9"]
    tokens.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    page.one("#size").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert [page.one(f"#{name}-told").text for name in ("tokens", "size")] == ["3", "about 48 × 48"]  # noqa: RUF001
    page.upload(1)
    said = page.ask("Is it red?")
    assert "3 image tokens" in page.stats()
    asked = question("Is it red?", [scene(1)], num_tokens=3, image_size=48)
    expected = answer(*load_model(elastic, "cpu"), [asked], max_new_tokens=8)[0]
    assert letters(said) == letters(expected) != ""


def letters(text: str) -> str:
    """What can be compared of an untrained model's answer: no blanks, and no characters that none can see."""
    return "".join(filter(str.isalpha, text))


def test_stop_keeps_what_was_said(page, elastic_url, monkeypatch):
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda *given: (time.sleep(0.02), step(*given))[1])  # as a larger model's
    page.visit(elastic_url)
    page.prefer(longest=400, explain=False, temperature=2)  # hot enough not to repeat the token that ends
    page.upload(1)
    page.one("#question").send_keys("Go on and on." + Keys.ENTER)
    page.until(lambda: len("".join(page.answers())) > 10)
    page.one("#stop").click()
    page.until(lambda: page.find(".answer[aria-busy=false]"))
    assert page.stats().startswith("stopped")
    assert len(page.answers()[0]) > 10
    page.prefer(longest=4, explain=False)
    page.ask("And now?")
    assert len(page.answers()) == 2


def test_errors_are_told_and_can_be_tried_again(page, loaded):
    page.upload(1)
    page.driver.execute_script("document.getElementById('question').value = 'star '.repeat(3000)")
    page.ask(".")
    assert "tokens" in page.one(".error p").text
    page.script("window.real = fetch; window.fetch = () => Promise.reject(new TypeError('gone'))")
    page.one(".error button").click()
    page.until(lambda: page.find(".error") and "does not answer" in page.one(".error p").text)
    page.script("window.fetch = window.real")
    page.ask("is there a star?")  # the image of the question that failed goes with it
    assert page.answers()[-1] == answer(*loaded, [question("is there a star?", [scene(1)])])[0]
    page.one("#picker").send_keys(str(Path(__file__)))
    page.until(lambda: "test_page.py is no image" in page.one("#toast").text)


def test_edit_again_and_clear(page):
    page.prefer(explain=False)
    page.upload(1)
    page.ask("is there a star?")
    page.ask("and a heart?")
    ActionChains(page.driver).move_to_element(page.one(".question")).perform()
    page.one(".question .icon").click()
    page.one(".edit textarea").send_keys(" and where?" + Keys.ENTER)
    page.until(lambda: page.find(".answer[aria-busy=false]"))
    assert [element.text for element in page.find(".question")] == ["is there a star? and where?"]
    assert len(page.find(".question img")) == 1
    said = page.answers()
    page.one(".answer [title='Answer again']").click()
    page.until(lambda: page.find(".answer[aria-busy=false]"))
    assert page.answers() == said
    page.one("#clear").click()
    page.driver.switch_to.alert.accept()
    page.until(lambda: page.one("#welcome").is_displayed())
    assert not page.find(".talk")


def test_drop_paste_photograph_and_examples(page):
    page.script(
        """
        const bytes = await (await fetch(given[0])).blob();
        const held = new DataTransfer();
        held.items.add(new File([bytes], "held.png", { type: "image/png" }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true }));
    """,
        f"{page.driver.current_url}examples/scene-1.png",
    )
    page.until(lambda: len(page.find("#tray img")) == 2)
    page.one("#tray .icon").click()
    page.one("#photograph").click()
    page.until(lambda: page.driver.execute_script("return document.getElementById('video').readyState > 1"))
    page.one("#live").click()
    page.until(lambda: "tokens/s" in page.one("#live-stats").text)
    page.one("#camera .primary").click()
    page.until(lambda: len(page.find("#tray img")) == 2)
    page.one(".example").click()
    page.until(lambda: page.find(".answer[aria-busy=false]"))
    assert page.one(".question").text == read_examples(EXAMPLES)[0]["question"]


def test_an_exported_conversation_can_be_trained_on(page, tmp_path):
    page.one("#settings-button").click()
    page.one("#system").send_keys("Be brief.")
    page.one("#settings .primary").click()
    page.upload(1, 2)
    said = page.ask("compare them.")
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    page.one("#export").click()
    page.until((tmp_path / "conversation.json").is_file)
    assert [each["from"] for each in json.loads((tmp_path / "conversation.json").read_text())[0]["conversations"]] == [
        "system",
        "human",
        "gpt",
    ]
    record = page.script("""
        const { load, toRecord } = await import("/store.js");
        const [talk] = await load();
        talk.turns[1].text += " at [10, 20, 500, 1000]";
        return toRecord(talk);
    """)
    (tmp_path / "talk.json").write_text(json.dumps([record]))
    (talk,) = load_conversations(tmp_path / "talk.json")
    assert [image.tobytes() for image in talk["images"]] == [scene(number).tobytes() for number in (1, 2)]
    system, asked, answered = talk["messages"]
    assert system == tiny.system("Be brief.")
    assert asked == tiny.user("compare them.", 2)
    assert answered["content"][0]["text"].split() == [*said.split(), "at"]
    assert answered["content"][1] == {"type": "place", "place": (0.01, 0.02, 0.5, 1.0), "image": 1}


def test_a_key_is_asked_for(chromium, model_dir):
    with serving(model_dir, keys=("secret",)) as address:
        page = Page(chromium)
        chromium.get(address)
        page.until(lambda: page.one("#key").get_attribute("open"))
        page.one("#key-field").send_keys("secret" + Keys.ENTER)
        page.until(lambda: page.find("body[data-ready]"))
        assert page.one("#model").text == model_dir.name
        assert not page.one("#tokens").is_enabled()  # of this model there is no choice
        chromium.get_log("browser")


MARKDOWN = {
    "**a** and *b*, `c < d`": "<p><strong>a</strong> and <em>b</em>, <code>c &lt; d</code></p>",
    "snake_case_name 2*3*4": "<p>snake_case_name 2*3*4</p>",
    "# A\n- b\n  1. c\n- d": '<h3>A</h3><ul><li>b<ol start="1"><li>c</li></ol></li><li>d</li></ul>',
    "```py\n<b>\n```\nx\ny": "<pre><code>&lt;b&gt;</code></pre><p>x<br>y</p>",
    "> a\n> b": "<blockquote><p>a<br>b</p></blockquote>",
    "|a|b|\n|-|-|\n|1|**2**|": (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table>"
    ),
    "[x](https://a.b/c)": '<p><a href="https://a.b/c" target="_blank" rel="noopener noreferrer">x</a></p>',
    "[x](javascript:alert(1)) <img src=x onerror=alert(1)>": (
        "<p>[x](javascript:alert(1)) &lt;img src=x onerror=alert(1)&gt;</p>"
    ),
    "![x](https://a.b/c.png)": '<p><a href="https://a.b/c.png" target="_blank" rel="noopener noreferrer">x</a></p>',
    ">" * 5000 + "a": "<blockquote><p>a</p></blockquote>",
}


def test_markdown(page):
    made = page.script(
        """
        const { render } = await import("/markdown.js");
        return given[0].map((text) => {
            const all = document.createElement("div");
            all.append(render(text));
            return all.innerHTML;
        });
    """,
        list(MARKDOWN),
    )
    assert made == list(MARKDOWN.values())


def test_a_phone_and_names_for_everything_that_can_be_pressed(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.upload(1)
        page.ask("is there a star?")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360
        for selector in ("#question", "#send", "#picture", "#menu"):
            box = page.one(selector).rect
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 360, selector
            assert 0 <= box["y"] <= box["y"] + box["height"] <= 700, selector
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    unnamed = [
        each
        for each in page.find("button, input, textarea, select")
        if each.is_displayed() and not each.accessible_name
    ]
    assert [each.get_attribute("outerHTML") for each in unnamed] == []


def test_large_and_rare_images_are_written_anew(page):
    """Of 3000 pixels 2048 are left; a GIF becomes a PNG; what is small and common stays as it is, byte for byte."""
    sizes = page.script(
        """
        const { read } = await import("/pictures.js");
        const canvas = Object.assign(document.createElement("canvas"), { width: 3000, height: 1500 });
        const large = await new Promise((done) => canvas.toBlob(done, "image/jpeg"));
        const small = await (await fetch("examples/scene-1.png")).blob();
        const bytes = Uint8Array.from(atob(given[0]), (each) => each.charCodeAt(0));
        const rare = await read(new Blob([bytes], { type: "image/gif" }), "a.gif");
        const [one, other] = [await read(large, "a"), await read(small, "b")];
        return [one.width, one.height, other.source, rare.source.slice(0, 15), rare.width];
    """,
        "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw==",
    )
    same = base64.b64encode((EXAMPLES / "scene-1.png").read_bytes()).decode()
    assert sizes == [2048, 1024, f"data:image/png;base64,{same}", "data:image/png;", 1]

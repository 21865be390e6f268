"""The server as OpenAI's own client meets it: answers are those of `answer`, whatever else is asked meanwhile."""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch

from mllm.generation import answer, question
from mllm.loading import load_model
from mllm.serving import engine
from mllm.serving.sampling import draw
from mllm.serving.streaming import TextStream
from tests import tiny
from tests.served import asked, serving


@pytest.fixture(scope="module")
def served_dir(tmp_path_factory, encoder_dir, bpe_language_model_dir):
    return tiny.model(tmp_path_factory.mktemp("served") / "model", encoder_dir, bpe_language_model_dir)


@pytest.fixture(scope="module")
def loaded(served_dir):
    return load_model(served_dir, "cpu")


@pytest.fixture(scope="module")
def client(served_dir):
    with serving(served_dir) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: list, **options):
    return client.chat.completions.create(model="model", messages=messages, **{"max_tokens": 8, **options})


def test_an_answer_is_the_model_s_own(client, loaded):
    done = ask(client, asked("Is it red?", tiny.image(0)))
    expected = answer(*loaded, [question("Is it red?", [tiny.image(0)])], max_new_tokens=8)[0]
    assert expected
    assert done.choices[0].message.content == expected
    assert done.usage.prompt_tokens_details.image_tokens == tiny.TOKENS
    assert done.usage.completion_tokens == 8
    assert done.choices[0].finish_reason == "length"


def test_a_stream_says_what_the_whole_answer_says(client, loaded):
    messages = asked("What differs?", tiny.image(1), tiny.image(2))
    stream = ask(client, messages, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(client, messages).choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("length") == 1
    assert chunks[-1].usage.completion_tokens == 8
    assert chunks[-2].model_extra["mllm"]["time_to_first_token"] > 0


def test_many_at_once_answer_as_one_by_one(client, loaded):
    """They join and leave a batch at different steps, some with a cached beginning."""
    cases = [
        (f"{'Is it red? ' * (index % 5)}How many?", [tiny.image(index % 3)] * (index % 2), 2 + index)
        for index in range(20)
    ]
    expected = [answer(*loaded, [question(text, images)], max_new_tokens=count)[0] for text, images, count in cases]

    def one(case) -> str:
        text, images, count = case
        return ask(client, asked(text, *images), max_tokens=count).choices[0].message.content

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, cases)) == expected
    assert len(set(expected)) > 10


# ------------------------------------------------------------------------------------------------ what the fields do


def test_a_seed_draws_the_same_whatever_else_is_asked(client):
    def draw(seed: int) -> list[str]:
        choices = ask(client, asked("Is it red?", tiny.image(0)), temperature=1.0, top_p=0.9, seed=seed, n=2).choices
        return [choice.message.content for choice in choices]

    alone = draw(7)
    with ThreadPoolExecutor(6) as pool:
        drawn = list(pool.map(draw, [7, 8, 7, 9, 10, 7]))
    assert drawn[0] == drawn[2] == drawn[5] == alone
    assert len({text for texts in drawn for text in texts}) == 8  # of four seeds, two choices each


def test_a_stop_text_ends_an_answer(client):
    messages = asked("Is it red?", tiny.image(0))
    text = ask(client, messages, max_tokens=20).choices[0].message.content
    stop = text[5:8]
    choice = ask(client, messages, max_tokens=20, stop=["never", stop]).choices[0]
    assert choice.message.content == text[: text.index(stop)].rstrip()
    assert choice.finish_reason == "stop"


def test_logprobs(client):
    choice = ask(client, asked("Is it red?"), logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 8
    for token in tokens:
        assert token.top_logprobs[0].logprob == token.logprob  # greedy
        assert 0 > token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob
    other = ask(client, asked("Is it red?"), logprobs=True, presence_penalty=2.0, frequency_penalty=2.0).choices[0]
    assert len({token.token for token in other.logprobs.content}) > len({token.token for token in tokens})


def test_the_next_turn_reads_only_what_is_new(client, loaded):
    messages = asked("What is above the small red star, and what is below it?", tiny.image(5))
    said = ask(client, messages).choices[0].message.content
    messages = [*messages, {"role": "assistant", "content": said}, *asked("And which colour has it?")]
    done = ask(client, messages)
    conversation = {
        "messages": [*question("What is above the small red star, and what is below it?", [0])["messages"]],
        "images": [tiny.image(5)],
    }
    conversation["messages"] += [tiny.assistant(said), tiny.user("And which colour has it?")]
    assert done.choices[0].message.content == answer(*loaded, [conversation], max_new_tokens=8)[0]
    assert done.usage.prompt_tokens_details.cached_tokens > done.usage.prompt_tokens_details.image_tokens


def test_budgets(elastic_dir):
    """An image becomes 2 to 9 tokens: as asked for it, for all, by detail, or as the server has it."""
    with serving(elastic_dir, num_tokens=7) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def tokens(extra: dict, **image: object) -> int:
            messages = asked("?", tiny.image(0), **image)
            done = client.chat.completions.create(model="elastic", messages=messages, max_tokens=1, extra_body=extra)
            return done.usage.prompt_tokens_details.image_tokens

        assert [tokens({}), tokens({}, detail="low"), tokens({}, detail="high")] == [7, 2, 9]
        assert [tokens({"image_tokens": 4}), tokens({"image_tokens": 4}, tokens=3)] == [4, 3]
        assert tokens({"image_size": 48}) == 7
        assert client.models.list().data[0].model_extra["mllm"]["image_tokens"] == [2, 9]


def test_where_the_model_looked(client):
    done = ask(client, asked("Is it red?", tiny.image(0), tiny.image(1)), max_tokens=20, extra_body={"explain": True})
    text, found = done.choices[0].message.content, done.model_extra["mllm"]
    assert [(each["width"], each["num_tokens"], len(each["rois"])) for each in found["images"]] == [(40, 5, 5)] * 2
    density = found["images"][0]["density"]
    assert len(base64.b64decode(density["cells"])) == 5 * density["width"] * density["height"]
    for word in found["words"]:
        assert text[word["begin"] : word["end"]] == word["text"]
        assert [len(weights) for weights in word["weights"]] == [5, 5]


# ------------------------------------------------------------------------------------------------------------ in parts


def test_language_models_that_cannot_join(served_dir, loaded, monkeypatch):
    """Those with sliding windows: they take turns."""
    monkeypatch.setattr(engine, "joinable", lambda model: False)
    with serving(served_dir) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda index: ask(client, asked("Is it red?", tiny.image(index))), range(4)))
    cases = [question("Is it red?", [tiny.image(index)]) for index in range(4)]
    assert [done.choices[0].message.content for done in said] == answer(*loaded, cases, max_new_tokens=8)


def test_draw():
    logits = torch.tensor([0.3, 0.5, 0.2]).log().expand(5, 3)
    temperatures = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])
    top_p = torch.tensor([1.0, 0.7, 0.7, 0.7, 1.0], dtype=torch.float64)
    chances = torch.tensor([0.99, 0.62, 0.63, 0.9999, 0.9999], dtype=torch.float64)
    assert draw(logits, temperatures, top_p, chances).tolist() == [1, 1, 0, 0, 2]  # 0.5 of 0.8 is 0.625


class Letters:
    """A tokenizer of single characters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("  yes  no ", ["y", "e", "s", "  n", "o"]),
        ("a [1, 2]b", ["a", " ", "[1, 2]", "b"]),
        ("abEND", ["a", "b"]),
        ("aEN", ["a", "EN"]),
        ("aE!b", ["a", "E!", "b"]),
    ],
)
def test_text_is_final_once_it_is_sent(text, pieces):
    stream = TextStream(Letters(), ["END"], lambda piece: piece)
    sent = [piece for piece in [*(stream.push(ord(each)) for each in text), stream.finish()] if piece]
    assert sent == pieces
    assert stream.stopped == text.endswith("END")


# --------------------------------------------------------------------------------------------------------- the command


def test_sigterm_lets_answers_end(served_dir):
    """And nobody else comes in; the command ends as others do after SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mllm",
        "serve",
        "--model",
        str(served_dir),
        "--device",
        "cpu",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=200, timeout=60)
    stream = ask(client, asked("Is it red?", tiny.image(0)), max_tokens=300, stream=True)
    next(iter(stream))
    server.send_signal(signal.SIGTERM)
    reasons = [chunk.choices[0].finish_reason for chunk in stream]
    assert reasons.count("length") == 1
    assert server.wait(60) == 143
    assert server.stderr.read().splitlines()[-1] == "terminated"

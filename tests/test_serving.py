"""The server as OpenAI's own client meets it: answers are those of `answer`, whatever else is asked meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from mllm.generation import answer, question
from mllm.loading import load_model
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

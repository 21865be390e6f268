"""Samples and batches: padding, images, and conversations that are skipped by name."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from data import InputError
from data.bad_samples import BadSamples
from mllm.finetuning.data import Collator, EncodedConversations
from mllm.loading import load_processor
from mllm.prompts import IGNORE
from tests.tiny import assistant, image, user


def talk(name: str, question: str, answer: str, *images) -> dict:
    messages = [user(question, images=len(images)), assistant(answer)]
    return {"id": name, "images": list(images), "messages": messages}


@pytest.fixture(scope="module")
def processor(model_dir):
    return load_processor(model_dir)


class Talks(list):
    """Conversations in memory."""

    def load(self, index: int) -> dict:
        return self[index]

    def name(self, index: int) -> str:
        return self[index]["id"]


CONVERSATIONS = Talks(
    [
        talk("one", "Is there a red circle?", "Yes.", image(0)),
        talk("text", "Say a word.", "Two squares, above the star."),
        talk("two", "Compare.", "No.", image(1), image(2)),
    ]
)


def test_batch_is_padded_on_the_right_and_images_stay_in_order(processor):
    samples = [EncodedConversations(CONVERSATIONS, processor)[index] for index in range(3)]
    batch = Collator(pad_token_id=processor.tokenizer.pad_token_id)(samples)
    longest = max(len(sample["input_ids"]) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, longest)
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == sample["input_ids"].tolist()
        assert batch["labels"][row, :length].tolist() == sample["labels"].tolist()
        assert (batch["input_ids"][row, length:] == processor.tokenizer.pad_token_id).all()
        assert (batch["labels"][row, length:] == IGNORE).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
    expected = processor.image_processor([image(0), image(1), image(2)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)


def test_a_batch_of_text_has_no_images(processor):
    batch = Collator(0)([EncodedConversations(CONVERSATIONS, processor)[1]])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_what_is_learned_is_the_answer_and_its_end(processor):
    sample = EncodedConversations(CONVERSATIONS, processor)[0]
    learned = processor.tokenizer.decode(sample["labels"][sample["labels"] != IGNORE])
    assert learned.strip() == "Yes.</s>"


def test_the_loss_of_a_batch_is_that_of_its_samples(model_dir, processor):
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    samples = [EncodedConversations(CONVERSATIONS, processor)[index] for index in range(3)]
    collate = Collator(processor.tokenizer.pad_token_id)
    with torch.no_grad():
        together = model(**collate(samples)).loss
        losses = torch.stack([model(**collate([sample])).loss for sample in samples])
    counts = torch.tensor([(sample["labels"] != IGNORE).sum() for sample in samples])
    torch.testing.assert_close(together, (losses * counts).sum() / counts.sum())


def test_bad_conversations_are_replaced_by_the_next_good_one_and_named(processor):
    bad = BadSamples()
    wordy = talk("wordy", "Say a word.", "star " * 300)
    mute = {"id": "mute", "images": [], "messages": [user("Anybody?")]}
    samples = EncodedConversations(Talks([wordy, mute, *CONVERSATIONS]), processor, max_length=64, bad=bad)
    assert len(samples) == 5
    assert samples[0]["input_ids"].tolist() == samples[2]["input_ids"].tolist()
    report = "\n".join(bad.report())
    assert bad.count == 2
    assert "wordy" in report
    assert "max_length=64" in report
    assert "mute" in report


def test_no_good_conversation_at_all_is_an_error(processor):
    samples = EncodedConversations(Talks([talk("wordy", "Say.", "star " * 300)]), processor, max_length=64)
    with pytest.raises(InputError, match="wordy"):
        samples[0]

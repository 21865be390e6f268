"""Our models in lmms-eval: ``lmms-eval --model mllm --model_args pretrained=DIR``. Needs the extra ``eval``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import Collator
from tqdm import tqdm

from data.errors import InputError
from data.messages import Conversation
from mllm.evaluation.lmms_requests import conversation_of, read_generation_kwargs
from mllm.evaluation.runner import answer_each, own_device
from mllm.loading import context_length, load_model

logger = logging.getLogger(__name__)


class LmmsModel(lmms):
    """A model or adapter directory as lmms-eval's chat model. Tasks that generate are answered, in batches.

    What cannot be asked (a part that is no text and no image, a broken image, a prompt that is too long) is named,
    counted and answered with nothing, so that it counts as wrong.

    Args:
        pretrained: the directory.
        device: as for `mllm chat`; each of several processes has a GPU of its own.
        dtype: one of `mllm.loading.DTYPES`.
        batch_size: prompts at a time, a number.
    Raises:
        InputError: as for `load_model`; a batch size that is no positive number.
    """

    is_simple = False

    def __init__(self, pretrained: str, device: str = "auto", dtype: str = "auto", batch_size: int | str = 1) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise InputError(f"batch_size={batch_size}: give a positive number")
        self.batch_size = int(batch_size)
        self.model, self.processor = load_model(pretrained, own_device(device), dtype)
        self.device: torch.device = self.model.device  # outlives `clean`, which takes the model away

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """An answer to each request, whose arguments are (text, doc_to_messages, generation_kwargs, id, task, split).

        Requests of the same generation_kwargs share batches, the longest first.
        """
        collator = Collator(
            [request.args for request in requests],
            sort_fn=lambda args: (-len(args[0]), args[0]),
            group_fn=lambda args: args[2],
            grouping=True,
        )
        answers: list[str] = []
        refused = 0
        warned: set[str] = set()
        bar = tqdm(total=len(requests), desc="answers", disable=self.rank != 0)
        for batch in collator.get_batched(n=self.batch_size):
            asked = read_generation_kwargs(batch[0][2], context_length(self.model.config))
            for name in asked.unknown:
                if name not in warned:
                    logger.warning("generation_kwargs: %s means nothing to this model", name)
            warned.update(asked.unknown)
            conversations = [self._conversation(*args) for args in batch]
            good = [each for each in conversations if not isinstance(each, InputError)]
            replies = iter(
                answer_each(
                    self.model, self.processor, good, asked.max_new_tokens, stop=asked.stop, decoding=asked.decoding
                )
            )
            for each, (*_, number, task, _split) in zip(conversations, batch, strict=True):
                reply = each if isinstance(each, InputError) else next(replies)
                if isinstance(reply, InputError):
                    refused += 1
                    logger.warning("%s %s was not asked: %s", task, number, reply)
                answers.append("" if isinstance(reply, InputError) else reply)
            bar.update(len(batch))
        bar.close()
        if refused:
            logger.warning("%d of %d requests could not be asked; they count as wrong", refused, len(requests))
        return collator.get_original(answers)

    def _conversation(
        self, _text: str, doc_to_messages: Any, _kwargs: Any, number: int, task: str, split: str
    ) -> Conversation | InputError:
        try:
            return conversation_of(doc_to_messages(self.task_dict[task][split][number]))
        except InputError as problem:
            return problem

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("mllm answers tasks with output_type generate_until; take such a variant of the task")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("mllm answers tasks with output_type generate_until; take such a variant of the task")

"""The next token of each of several answers, each drawn as its request says, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllm.serving.streaming import TextStream


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in OpenAI's terms; the temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None

    def generator(self, choice: int) -> torch.Generator:
        """Makes the source of chance of one of a request's answers."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed((1_000_003 * self.seed + choice) % 2**63)
        return generator

    def penalize(self, logits: Tensor, tokens: list[int]) -> None:
        """Makes the tokens that an answer has already less likely, in its (V,) logits."""
        if (self.frequency_penalty or self.presence_penalty) and tokens:
            used, counts = torch.tensor(tokens, device=logits.device).unique(return_counts=True)
            logits[used] -= self.frequency_penalty * counts + self.presence_penalty


def draw(logits: Tensor, temperatures: Tensor, top_p: Tensor, chances: Tensor) -> Tensor:
    """Draws a token for each row.

    Args:
        logits: (B, V).
        temperatures: (B,), 0 for the likeliest token.
        top_p: (B,), how much probability the tokens have together that are drawn from, the likeliest first.
        chances: (B,), from 0 to 1, in float64: they decide alone.

    Returns:
        (B,).
    """
    likeliest = logits.argmax(dim=-1)
    if not temperatures.any():
        return likeliest
    logits, order = (logits / temperatures.clamp(min=1e-4)[:, None]).sort(dim=-1, descending=True, stable=True)
    below = logits.double().softmax(dim=-1).cumsum(dim=-1)
    kept = below[:, :-1].lt(top_p[:, None]).sum(dim=-1, keepdim=True)  # the last that is drawn from
    place = torch.searchsorted(below, chances[:, None] * below.gather(1, kept), right=True).minimum(kept)
    return torch.where(temperatures > 0, order.gather(1, place)[:, 0], likeliest)


def logprob(stream: TextStream, logits: Tensor, token: int, count: int) -> dict[str, Any]:
    """Describes a token and the likeliest ones in its place, as OpenAI does."""
    logprobs = logits.log_softmax(dim=-1)

    def describe(token: int) -> dict[str, Any]:
        piece = stream.piece(token)
        return {"token": piece, "logprob": float(logprobs[token]), "bytes": list(piece.encode())}

    top = logprobs.topk(min(count, len(logprobs))).indices.tolist() if count else []
    return {**describe(token), "top_logprobs": [describe(each) for each in top]}

"""Hours of a training: the multiply-accumulates of its samples, at the rate at which GPUs are taken to compute.

Counted is one sample of average length, forward and backward with the real model on the meta device: with what is
computed again under gradient checkpointing, and without gradients of what is frozen. What padding, loading and
communication cost is in the rate, which is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encoder.macs import FusedAttention
from mllm.costs.memory import Step, loss_of_step, prepare_step
from mllm.finetuning.freezing import freeze
from mllm.modeling import MLLMForConditionalGeneration

RATE = 125.0  # TFLOPS of a GPU: 40% of an A100's peak in bfloat16; of an H100's it would be 400


@dataclass(frozen=True)
class Samples:
    """Says what is trained on.

    Args:
        count: of all epochs together.
        length: tokens of one on average, its images' included.
        tflops: what one GPU computes, two operations for a multiply-accumulate.
    """

    count: int
    length: int
    tflops: float = RATE


def macs_of_sample(
    build: Callable[[], MLLMForConditionalGeneration], stage: str, step: Step, pixels: Tensor, length: int
) -> int:
    """Counts the multiply-accumulates of one sample of ``length`` tokens in a training step.

    Args:
        build: makes a frozen model on the meta device; it is changed here.
        pixels: (P, 3, H, W), the images of one sample.
    """
    one = replace(step, batch=1, length=length)
    model = freeze(build(), stage, step.lora, full_precision=False)
    whole = prepare_step(model, one)
    with FusedAttention(), FlopCounterMode(display=False) as counter:
        loss_of_step(whole, one, pixels).backward()
    return counter.get_total_flops() // 2


def hours(macs: int, samples: Samples, gpus: int) -> float:
    """Computes the hours that so many samples take on so many GPUs together."""
    return 2 * macs * samples.count / (gpus * samples.tflops * 1e12) / 3600

"""Memory of one GPU, for answering and for training: "which GPU do I need?".

    total = weights + gradients + optimizer + activations + cache + buffers + 1 GiB for CUDA and its libraries

Let P be the number of parameters, T of these those that train, N the GPUs, and w the bytes of a weight (bfloat16: 2).

| | ZeRO 0 | ZeRO 1 | ZeRO 2 | ZeRO 3 |
|---|---|---|---|---|
| weights | w P | w P | w P | w P / N |
| gradients | w T | w T | w T / N | w T / N |
| optimizer (AdamW) | o T | o T / N | o T / N | o T / N |
| buffers | 0 | w 10⁹ | w 10⁹ | w (5·10⁸ + min(P, 10⁹)) |

o is 12 with half-precision weights, a float32 copy and two moments, and 8 with float32 weights. Without DeepSpeed this
project's Trainer holds what trains in float32: 4 + 4 + 8 bytes, the same sum. Buffers are those of DeepSpeed's defaults
(arXiv 1910.02054): two buckets of 5·10⁸ gradients; at stage 3 one, and up to 10⁹ parameters gathered at a time.

activations: a training step, forward and backward, is run on the meta device with the real model, and the greatest
number of bytes alive at any moment is taken, parameters and finished gradients left out. So everything is in it that
autograd keeps for what trains in this stage, recomputed blocks, logits in float32 and their gradients; attention counts
as the fused kernel does. For answering it is the greatest number in the pass over the prompt; `cache` are the keys and
values of prompt and answer.

A GPU is large enough if a tenth more than the total fits: memory is lost to fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from data import InputError
from encoder.macs import FusedAttention
from mllm.compat import CACHE
from mllm.costs.meta_model import causal_mask, prefill
from mllm.finetuning.freezing import LoraRecipe, count, freeze, model_parts
from mllm.modeling import MLLMForConditionalGeneration

GIB = 2**30
ZERO_STAGES = (0, 1, 2, 3)
CONTEXT = GIB
SPARE = 1.1
BUCKET, LIVE_PARAMETERS = 500_000_000, 1_000_000_000  # DeepSpeed's reduce_bucket_size, stage3_max_live_parameters
GPUS = {  # GiB -> some that have them, and bfloat16
    16: "RTX 4080, RTX A4000",
    24: "L4, A10, RTX 4090",
    32: "RTX 5090",
    48: "L40S, A6000",
    80: "A100, H100",
    141: "H200",
    180: "B200",
}


@dataclass(frozen=True)
class Memory:
    """Says how many bytes of one GPU are taken, and by what."""

    weights: int
    activations: int
    gradients: int = 0
    optimizer: int = 0
    cache: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values()) + CONTEXT

    @property
    def gpu(self) -> int | None:
        """Is the GiB of the smallest GPU in GPUS that is large enough; None if none is."""
        return next((size for size in GPUS if self.total * SPARE <= size * GIB), None)


@dataclass(frozen=True)
class Step:
    """Describes one training step on one GPU.

    Args:
        batch: samples, the micro-batch.
        length: tokens of a sample, its images' included.
        images: of a sample.
        gpus: N, over which ZeRO divides.
        checkpointing: keep the inputs of the blocks only, and recompute the rest (gradient_checkpointing).
        lora: of stage lora.
    """

    batch: int = 4
    length: int = 2048
    images: int = 1
    gpus: int = 8
    checkpointing: bool = True
    lora: LoraRecipe = field(default_factory=LoraRecipe)

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("length", 2), ("images", 1), ("gpus", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class PeakBytes(TorchDispatchMode):
    """Measures the most bytes alive at any moment of what is made while this mode is on.

    A storage counts once, whatever views there are of it, from its making until the last of them is gone.

    Args:
        known: tensors that existed before and are not to be counted when an operation returns them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.live -= size


def inference_memory(
    model: MLLMForConditionalGeneration, pixels: Tensor, batch: int, prompt: int, new_tokens: int
) -> Memory:
    """Measures what ``batch`` prompts of T tokens take, images included, with answers of ``new_tokens``, without beams.

    Args:
        pixels: (P, 3, H, W), all images of the batch, encoded at once.
    """
    with torch.no_grad(), FusedAttention(), PeakBytes(tensors_of(model)) as peak:
        model.model.get_image_features(pixels)
        outputs = prefill(model, batch, prompt, use_cache=True)
        cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in outputs[CACHE].layers)
    return Memory(
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        activations=peak.peak - cache,
        cache=cache * (prompt + new_tokens) // prompt,
    )


def training_memory(
    build: Callable[[], MLLMForConditionalGeneration], stage: str, step: Step, pixels: Tensor
) -> dict[int, Memory]:
    """Measures what a training step takes, by stage of ZeRO.

    Args:
        build: makes a frozen model on the meta device; it is changed here.
        stage: one of `freezing.STAGES`.
        pixels: (B·P, 3, H, W), the images of a batch.
    """
    model = freeze(build(), stage, step.lora, full_precision=False)  # in one dtype, as under DeepSpeed
    weight = next(model.parameters()).dtype.itemsize
    everything, trained = count(model.parameters()), count(model.parameters(), trained_only=True)
    activations = peak_of_step(model, step, pixels)
    return {zero: divide(weight, everything, trained, activations, step.gpus, zero) for zero in ZERO_STAGES}


def divide(weight: int, everything: int, trained: int, activations: int, gpus: int, zero: int) -> Memory:
    """Computes the table at the top from w, P, T, the bytes of activations, N and the stage of ZeRO."""
    moments = 12 if weight < 4 else 8
    return Memory(
        weights=weight * everything // (gpus if zero == 3 else 1),
        activations=activations,
        gradients=weight * trained // (gpus if zero >= 2 else 1),
        optimizer=moments * trained // (gpus if zero >= 1 else 1),
        buffers=weight * (0, 2 * BUCKET, 2 * BUCKET, BUCKET + min(everything, LIVE_PARAMETERS))[zero],
    )


def peak_of_step(model: PreTrainedModel | PeftModel, step: Step, pixels: Tensor) -> int:
    """Measures the bytes of activations, as described at the top."""
    whole = prepare_step(model, step)
    with FusedAttention(), PeakBytes(tensors_of(model)) as peak:
        loss_of_step(whole, step, pixels).backward()
    return peak.peak


def prepare_step(model: PreTrainedModel | PeftModel, step: Step) -> Any:
    """Makes a model train as the step does, and gives the model itself, without LoRA's wrapper."""
    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    model.train()
    tower = model_parts(model)["encoder"]
    if not any(parameter.requires_grad for parameter in tower.parameters()):
        tower.eval()
    if step.checkpointing:
        # FusedAttention rests during a call of backward, so blocks are recomputed under one of their own.
        whole.gradient_checkpointing_enable(
            {"use_reentrant": False, "context_fn": lambda: (nullcontext(), FusedAttention())}
        )
    for parameter in model.parameters():
        if parameter.requires_grad:  # gradients are counted by themselves
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    return whole


def loss_of_step(whole: MLLMForConditionalGeneration, step: Step, pixels: Tensor) -> Tensor:
    """Runs a step to its loss: images first, then text; every token is a target."""
    batch, config = step.batch, whole.config.text_config
    features = torch.stack(list(whole.model.get_image_features(pixels.clone()).pooler_output))  # the clone is counted
    features = features.reshape(batch, -1, features.shape[-1])
    words = step.length - features.shape[1]
    if words < 1:
        raise InputError(f"length={step.length}: the images alone have {features.shape[1]} tokens; raise it")
    text = whole.get_input_embeddings()(torch.empty(batch, words, dtype=torch.long, device="meta"))
    hidden = whole.model.language_model(
        inputs_embeds=torch.cat([features, text], dim=1),
        attention_mask=causal_mask(batch, step.length),
        use_cache=False,
    )
    labels = torch.empty(batch, step.length, dtype=torch.long, device="meta")
    return whole.loss_function(
        logits=whole.lm_head(hidden.last_hidden_state), labels=labels, vocab_size=config.vocab_size
    )


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Lists the parameters and buffers."""
    return [*model.parameters(), *model.buffers()]

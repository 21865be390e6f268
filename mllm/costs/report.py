"""All that a model costs, in one dictionary."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from data import InputError
from data.errors import translated
from mllm.assembly import visual_tokens
from mllm.configuration import MLLMConfig
from mllm.costs.memory import Memory, Step, inference_memory, training_memory
from mllm.costs.meta_model import dummy_images, macs_of_parts, meta_model
from mllm.costs.time import Samples, hours, macs_of_sample
from mllm.finetuning.freezing import STAGES, count, expert_parameters, model_parts
from mllm.modeling import MLLMForConditionalGeneration


def costs(
    config: MLLMConfig,
    step: Step,
    dtype: torch.dtype = torch.bfloat16,
    prompt: int = 64,
    new_tokens: int = 128,
    size: int | None = None,
    samples: Samples | None = None,
) -> dict[str, Any]:
    """Measures everything that `mllm info` says, as JSON takes it; memory in bytes.

    Args:
        prompt: tokens of a question's text; its ``step.images`` images come in addition.
        size: side of the images; None: the encoder's own.
        samples: of a training whose hours are to be told.
    Raises:
        InputError: a mixture of experts, or settings that do not fit the model.
    """

    def build() -> MLLMForConditionalGeneration:
        return meta_model(config, dtype)

    model, image = build(), dummy_images(config, 1, size)
    if expert_parameters(model.model.language_model):
        raise InputError(
            f"language model: a {config.text_config.model_type!r} is a mixture of experts; which of them see a token "
            "depends on numbers, so its costs are not counted: take a dense one"
        )
    with torch.no_grad(), translated("the configuration makes no model that runs"):
        tokens = visual_tokens(model, image)
        asked = step.images * tokens + prompt
        macs = macs_of_parts(model, image, asked)
    answering = inference_memory(model, dummy_images(config, step.images, size), 1, asked, new_tokens)
    images = dummy_images(config, step.batch * step.images, size)
    training = {stage: training_memory(build, stage, step, images) for stage in STAGES}
    report = {
        "encoder": config.vision_config.model_type,
        "encoder_blocks": config.vision_config.num_hidden_layers,
        "projector": {"name": config.projector, **config.projector_options},
        "language_model": config.text_config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "image": list(image.shape[-2:]),
        "visual_tokens": tokens,
        "prompt_tokens": asked,
        "new_tokens": new_tokens,
        "parameters": {name: count(part.parameters()) for name, part in model_parts(model).items()},
        "macs": {name: asdict(each) for name, each in macs.items()},
        "step": asdict(step),
        "inference": _row(answering),
        "training": [
            {"stage": stage, "zero": zero, **_row(memory)}
            for stage, by_zero in training.items()
            for zero, memory in by_zero.items()
        ],
    }
    if samples:
        images = dummy_images(config, step.images, size)
        counts = {stage: macs_of_sample(build, stage, step, images, samples.length) for stage in STAGES}
        stages = [
            {"stage": key, "macs": macs, "hours": hours(macs, samples, step.gpus)} for key, macs in counts.items()
        ]
        report["time"] = {**asdict(samples), "stages": stages}
    return report


def _row(memory: Memory) -> dict[str, Any]:
    return {**asdict(memory), "total": memory.total, "gpu_gib": memory.gpu}

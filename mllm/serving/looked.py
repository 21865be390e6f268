"""Where the model looked for its answer, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch

from data.errors import InputError
from data.messages import Conversation, Message
from mllm.explanation import explain
from mllm.processing import MLLMProcessor
from mllm.serving.jobs import Image

RESOLUTION = 32  # cells along the longer side of an image


@torch.no_grad()
def looked(
    processor: MLLMProcessor, model: Any, messages: Sequence[Message], images: Sequence[Image], answer: str
) -> dict[str, Any]:
    """Returns "images" with RoIs and density of sampling, and "words" with the weights of each image's N tokens.

    The cells of a density are N x height x width bytes, in base64: what each token has read of a grid over the image,
    each in 255ths of its own most.

    Where an answer cannot be explained, "not_explained" says why instead.
    """
    conversation: Conversation = {"messages": list(messages), "images": [image.open(image.content) for image in images]}
    if counts := [image.num_tokens for image in images if image.num_tokens is not None]:
        conversation["num_tokens"] = counts
    if (size := images[0].image_size) is not None:
        conversation["image_size"] = size
    try:
        found = explain(model, processor, conversation, answer, resolution=RESOLUTION)
    except InputError as error:
        return {"not_explained": str(error)}
    shown = []
    for image, rois, pixels in zip(conversation["images"], found.rois, found.pixel_weights, strict=True):
        count, height, width = pixels.shape
        cells = (255 * pixels / pixels.amax(dim=(1, 2), keepdim=True)).round().byte().numpy().tobytes()
        density = {"width": width, "height": height, "cells": base64.b64encode(cells).decode()}
        shown.append(
            {
                "width": image.width,
                "height": image.height,
                "num_tokens": count,
                "rois": _rounded(rois),
                "density": density,
            }
        )
    words, end = [], 0
    for index, word in enumerate(found.words):
        begin = answer.find(word, end)
        begin = end if begin < 0 else begin
        end = begin + len(word)
        weights = [_rounded(each[index]) for each in found.token_weights]
        words.append({"text": word, "begin": begin, "end": end, "weights": weights})
    return {"images": shown, "words": words}


def _rounded(values: torch.Tensor) -> Any:
    return torch.round(values.double(), decimals=4).tolist()

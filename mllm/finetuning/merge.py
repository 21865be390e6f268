"""A LoRA adapter and its base become one plain model directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from data import InputError
from data.files import check_new_folder, check_writable, whole_folder
from encoder.training.arguments import tell_deepspeed
from encoder.weights import check_files_finite
from mllm.finetuning.trainer import cache_again
from mllm.hub import write_card
from mllm.loading import adapter_base, check_sight, is_adapter, load_plain, load_processor, merge_adapter, with_adapter

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

logger = logging.getLogger(__name__)


# How much logits may differ, as a fraction of their size: a merged weight is a sum, rounded to its dtype.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def merge(adapter: str | Path, out: str | Path, base: str | Path | None = None) -> Path:
    """Write the model that the adapter makes of its base as a plain directory, processor included.

    LoRA adds `alpha / rank * B @ A` to a weight (arXiv 2106.09685); the sum is the merged weight, in the base's dtype.
    The trained projector replaces the base's. An adapter on one of two tied embeddings makes them two. What is written
    is read again and must answer as the adapter did.

    Args:
        adapter: directory written by stage lora of `mllm finetune`.
        out: a directory that does not exist yet, or is empty.
        base: the base model, if it is no longer where the adapter says.
    Raises:
        InputError: no adapter there, its base is missing, `out` is taken, or the merged model is another.
    """
    adapter, out = Path(adapter), Path(out)
    if not is_adapter(adapter):
        raise InputError(f"{adapter}: is no adapter directory (no adapter_config.json); stage lora writes one")
    check_new_folder(f"--out {out}", out)
    check_writable("--out", out)
    plain, processor = load_plain(adapter_base(adapter, base)), load_processor(adapter)
    dtype = plain.dtype
    check_sight(adapter, plain, processor)
    adapted = with_adapter(plain, adapter).eval()
    expected = probe(adapted, processor)
    model: Any = merge_adapter(adapted, dtype)
    cache_again(model)  # also a published language model may have been saved after training

    tell_deepspeed()
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        model.to("meta")  # room for the same model again
        difference = (probe(load_plain(folder).eval(), processor) - expected).norm() / expected.norm()
        if not difference <= TOLERANCES.get(dtype, 1e-1):
            raise InputError(
                f"{adapter}: the merged model answers differently, by {difference:.1e} of its logits; nothing is "
                "written: use the adapter as it is"
            )
        check_files_finite(folder, str(out), "nothing is written: train it again")
        write_card(folder, name=out.resolve().name, trained=adapter)
    logger.info("merged %s into %s", adapter, out)
    return out


@torch.no_grad()
def probe(model: Any, processor: MLLMProcessor) -> torch.Tensor:
    """Logits (1, T, V) for an image of noise and tokens from all over the vocabulary."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = processor.read_images([Image.fromarray(noise)])[1]["pixel_values"]
    config = model.config
    words = torch.linspace(0, config.text_config.vocab_size - 1, 32).long()
    words = words[words != config.image_token_index]
    ids = torch.cat([torch.full((config.image_seq_length,), config.image_token_index), words])[None]
    return model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits.double()

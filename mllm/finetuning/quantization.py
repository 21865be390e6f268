"""Weights in 4 or 8 bits, by bitsandbytes.

QLoRA (arXiv 2305.14314) trains with the frozen language model in 4 bits, encoder and projector as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import is_bitsandbytes_available

from data import InputError

# Names of modules, from the top of the model: what is never quantized.
KEPT = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def four_bit(dtype: torch.dtype, kept: Sequence[str] = KEPT, field: str = "four_bit") -> BitsAndBytesConfig:
    """4-bit normal floats, the scales quantized too, as in the paper.

    Args:
        dtype: that the language model computes in.
        kept: modules that are never quantized.
        field: what asks for it, for the message.
    Raises:
        InputError: bitsandbytes is not installed; ZeRO-3, which would split packed weights.
    """
    check_installed(field)
    if is_deepspeed_zero3_enabled():
        raise InputError("four_bit: 4-bit weights are not split; take a DeepSpeed config of stage 1 or 2")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(kept),
    )


def eight_bit(kept: Sequence[str], field: str) -> BitsAndBytesConfig:
    """8-bit integers, a scale for each row (LLM.int8, arXiv 2208.07339); InputError without bitsandbytes."""
    check_installed(field)
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(kept))


def check_installed(field: str) -> None:
    """Raises InputError unless bitsandbytes is installed; ``field`` is what needs it."""
    if not is_bitsandbytes_available():
        raise InputError(f"{field}: needs bitsandbytes: pip install 'sparseformer-mllm[qlora]'")

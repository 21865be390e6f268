"""A model directory becomes a model and its processor, whether it is a plain one or a LoRA adapter."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors import safe_open
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from data import InputError
from data.errors import translated
from data.files import read_json, read_text
from data.limits import check_range
from encoder.image_processing import check_image_processor
from encoder.weights import check_finite, check_report
from mllm.compat import untie_adapted_embeddings
from mllm.configuration import MLLMConfig
from mllm.tower import unread_weights

if TYPE_CHECKING:
    from peft import PeftModel

    from mllm.processing import MLLMProcessor

ADAPTER_CONFIG = "adapter_config.json"
EMBEDDED = Path(__file__).parent / "embedded"  # the small model that comes with the package
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "README.md")  # what a model directory is made of
_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    directory: str | Path, device: str = "auto", dtype: str = "auto", base: str | Path | None = None
) -> tuple[PreTrainedModel, MLLMProcessor]:
    """Loads a model for answering: in eval mode, an adapter merged into its base.

    Args:
        directory: a plain model directory or an adapter directory, or `find_model`'s name of one on the hub.
        device: a torch device, or "auto": CUDA, Apple's GPU or the CPU, the first there is.
        dtype: one of DTYPES; "auto" is the stored one.
        base: for an adapter whose base model lies elsewhere than the adapter says.
    Raises:
        InputError: no such directory, no model in it, files missing or damaged.
    """
    directory = find_model(directory)
    place = pick_device(device)
    model: Any
    if is_adapter(directory):
        model = load_plain(adapter_base(directory, base), dtype)
        model = merge_adapter(with_adapter(model, directory), model.dtype)
    else:
        model = load_plain(directory, dtype)
    model, processor = model.to(place).eval(), load_processor(directory)
    check_sight(directory, model, processor)
    with translated(f"{directory}: the model cannot answer"):  # generation_config.json is looked at only then
        model.generate(torch.zeros(1, 1, dtype=torch.long, device=place), do_sample=False, max_new_tokens=1)
    return model, processor


def find_model(name: str | Path) -> Path:
    """Finds a model directory, or one of the hub, OWNER/NAME or OWNER/NAME@REVISION, in the cache or else fetched.

    Without network, or with HF_HUB_OFFLINE=1, what the cache has is taken.

    Raises:
        InputError: it looks like a name on the hub, and can neither be fetched nor is in the cache.
    """
    repo, _, revision = str(name).partition("@")
    if os.path.lexists(name) or not _ON_HUB.fullmatch(repo):
        return Path(name)
    with translated(f"{name}: is no directory here, and cannot be had from the hub"):
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=list(FILES)))


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds a LoRA adapter of peft rather than a whole model."""
    return (directory / ADAPTER_CONFIG).is_file()


def adapter_base(directory: Path, base: str | Path | None = None) -> Path:
    """Finds the base model directory of an adapter, which is stored relative to the adapter's own directory.

    Raises:
        InputError: it is not there, or the adapter does not say.
    """
    if base is not None:
        return Path(base)
    file = directory / ADAPTER_CONFIG
    config = read_json(file)
    stored = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(stored, str):
        raise InputError(f"{file}: names no base_model_name_or_path; `mllm finetune` writes it, or say --base DIR")
    found = (directory / stored).resolve()
    if not found.is_dir():
        raise InputError(f"{directory}: its base model {found} is not there; move it back or say --base DIR")
    return found


def load_plain(
    directory: Path, dtype: str | torch.dtype = "auto", quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Loads a plain model directory, every weight of it or none.

    Args:
        quantization: how to hold a part of the weights in fewer bits.
    Raises:
        InputError: no such directory, not a model that answers about images, files missing or damaged.
    """
    check_model_directory(directory)
    check_weight_files(directory)
    options = {} if quantization is None else {"quantization_config": quantization}
    with translated(f"{directory}: the weights cannot be read"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            str(directory),
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            **options,
        )
    model, report = loaded
    whole_tower = report["unexpected_keys"] and isinstance(model.config, MLLMConfig)
    unread = unread_weights(str(directory), model.model.vision_tower) if whole_tower else ()
    check_report(str(directory), report, unread)
    check_finite(str(directory), model.state_dict(keep_vars=True).items())
    return model


def check_weight_files(directory: Path) -> None:
    """Raises InputError unless the weights' files are all there and whole, as far as their headers tell: that is cheap.

    A directory with other files than safetensors' is left to transformers.
    """
    index = directory / "model.safetensors.index.json"
    files = sorted(directory.glob("*.safetensors"))
    if index.is_file():
        content = read_json(index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise InputError(f"{index}: has no weight_map of names and files; fetch it again")
        files = sorted({directory / name for name in shards.values()})
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: there is no such file of weights, which {index.name} names")
        with translated(f"{file}: the weights cannot be read", "copy it again"), safe_open(file, "pt"):
            pass


def with_adapter(model: PreTrainedModel, directory: Path, trainable: bool = False) -> PeftModel:
    """Puts the adapter of a directory on a model, every weight of the adapter or none.

    Args:
        trainable: to go on training it, in the model's dtype; otherwise it is frozen, and float32.
    Raises:
        InputError: files missing or damaged, other weights than the configuration says, another base model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise InputError(f"{file}: there is no such file of weights; stage lora writes it beside {ADAPTER_CONFIG}")
    check_weight_files(directory)
    with translated(f"{directory}: the adapter does not fit its base"):
        adapted = PeftModel.from_pretrained(
            model, str(directory), is_trainable=trainable, autocast_adapter_dtype=not trainable
        )
    adapted.peft_config["default"].base_model_name_or_path = None  # relative to the adapter; peft would miss it
    weights = get_peft_model_state_dict(adapted)
    with safe_open(file, "pt") as stored:
        difference = sorted(set(stored.keys()) ^ set(weights))
    if difference:
        raise InputError(f"{file}: {len(difference)} weights are missing or unknown, the first is {difference[0]}")
    check_finite(str(file), weights.items())
    return adapted


def merge_adapter(model: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """Merges an adapter's updates into the weights of its base model, and returns that, all of it in one dtype."""
    base: Any = model.get_base_model()
    tied = base.config.tie_word_embeddings
    untie_adapted_embeddings(base)
    with translated("the adapter cannot be merged"):
        merged = model.merge_and_unload()
    tied = tied and merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    merged.config.tie_word_embeddings = merged.config.get_text_config().tie_word_embeddings = tied
    return merged.to(dtype)


def load_processor(directory: Path) -> MLLMProcessor:
    """Loads the processor that is saved with every model and adapter.

    Raises:
        InputError: it is not there or damaged.
    """
    check_chat_template_file(directory)
    with translated(f"{directory}: no processor can be read"):
        processor = AutoProcessor.from_pretrained(str(directory), local_files_only=True)
    if not hasattr(processor, "image_processor"):
        raise InputError(f"{directory}: has a tokenizer but no image processor; it is not a model for images")
    check_image_processor(directory, processor.image_processor)
    vocabulary = [name for name in processor.tokenizer.vocab_files_names.values()]
    if not any((directory / name).is_file() for name in vocabulary):  # transformers makes up an empty one
        raise InputError(f"{directory}: has no {' or '.join(vocabulary)}; save the tokenizer there")
    return processor


def check_chat_template_file(directory: Path) -> None:
    """Raises InputError for a chat template that cannot be read; transformers passes over one that is no file."""
    file = directory / "chat_template.jinja"
    if os.path.lexists(file):
        read_text(file)


@torch.no_grad()
def check_sight(directory: Path, model: Any, processor: MLLMProcessor) -> None:
    """Raises InputError unless an image becomes as many embeddings as the processor leaves room for in the text."""
    with translated(f"{directory}: its encoder takes no image"):
        token, own = processor.tokenizer.convert_tokens_to_ids(processor.image_token), model.config.image_token_index
        if token != own:
            raise InputError(
                f"{directory}: {processor.image_token} is token {token} of its tokenizer, and {own} in config.json "
                "(image_token_index); save the tokenizer there that belongs to it"
            )
        pixels = processor.read_images([Image.new("RGB", (64, 64))])[1]["pixel_values"].to(model.device)
        count = len(model.get_image_features(pixels).pooler_output[0])
    if count != processor.num_image_tokens:
        raise InputError(
            f"{directory}: an image becomes {count} tokens, and its processor leaves room for "
            f"{processor.num_image_tokens}; set num_image_tokens in processor_config.json to {count}"
        )


def check_model_directory(directory: Path) -> PreTrainedConfig:
    """Reads the configuration of a plain model that answers about images; InputError if the directory has none."""
    config = read_config(directory, "model")
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"model directory {directory}: holds a {config.model_type!r}, which answers no questions about images"
        )
    return config


def read_config(directory: Path, what: str) -> PreTrainedConfig:
    """Reads the configuration of a directory that transformers wrote; ``what`` it should hold, for the message.

    Raises:
        InputError: no such directory, no configuration in it, or none that can be used.
    """
    if not directory.is_dir():
        raise InputError(f"{what} directory {directory}: no such directory")
    if not (directory / "config.json").is_file():
        raise InputError(
            f"{what} directory {directory}: has no config.json; a directory written by transformers is needed"
        )
    file = str(directory / "config.json")
    with translated(file):
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            check_range(f"{file}: attention_dropout", float(getattr(part, "attention_dropout", 0)), 0, 1)
    return config


def context_length(config: PreTrainedConfig) -> int | None:
    """Returns how many tokens a model's language model was built for; None where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def pick_device(name: str) -> torch.device:
    """Picks a torch device by name, "auto" for the best there is.

    Raises:
        InputError: torch has no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    with translated(f"--device {name}"):
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    return device


def quiet() -> None:
    """Turns the libraries' progress bars and notices off, for commands that answer."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

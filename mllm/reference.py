"""Model directories that refer to their language model instead of holding a copy of it.

They hold encoder, projector and the embeddings' new rows. `language_model_reference` in config.json names the rest: a
path relative to the directory, which begins with a dot, ``material:NAME`` of what `mllm fetch NAME` fetches, or a name
on the Hugging Face hub. What is loaded is a whole model and forgets the reference, so whatever is saved or merged later
stands alone again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from data.errors import InputError, translated
from data.files import write_json
from data.materials import SCHEME, model_path
from encoder.weights import check_report
from mllm.compat import leave_out_on_save, loads_adapter
from mllm.configuration import MLLMConfig
from mllm.tower import unread_weights

ROWS = "language_model_rows.safetensors"  # of both embeddings, for tokens that the language model does not know
HUB = ("cache_dir", "force_download", "local_files_only", "token")


class LoadsReferences:
    """Gives a model a `from_pretrained` that follows a reference, for our own loaders and the Auto classes alike."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Loads as transformers does, and with a reference every weight or none.

        Raises:
            InputError: the language model is not there, or another than the one referred to.
        """
        inherited: Any = super()
        name = pretrained_model_name_or_path
        adapter = (name is not None and (Path(name) / "adapter_config.json").is_file()) or loads_adapter(kwargs)
        hub = {key: kwargs[key] for key in HUB if key in kwargs}
        own = {**hub, "revision": kwargs.get("revision", "main")}
        stored = config
        if not (name is None or adapter or isinstance(config, PreTrainedConfig)):
            stored = MLLMConfig.from_pretrained(config or name, **own)
        reference = getattr(stored, "language_model_reference", None)
        if name is None or adapter or reference is None:
            loaded = inherited.from_pretrained(name, *model_args, config=config, **kwargs)
            if (loaded[0] if isinstance(loaded, tuple) else loaded).config.language_model_reference is not None:
                raise InputError(f"{name}: refers to its language model; load it, or its adapter, by mllm.load_model")
            return loaded

        file = Path(str(cached_file(name, SAFE_WEIGHTS_NAME, **own)))
        folder = find_language_model(file.parent, reference, **hub)
        weights = {**load_file(file), **_language_model_weights(folder)}
        for key, rows in load_file(str(cached_file(name, ROWS, **own))).items():
            weights[key] = torch.cat([weights[key], rows.to(weights[key].device)])
        wanted = kwargs.pop("output_loading_info", False)
        kwargs.pop("ignore_mismatched_sizes", None)
        model, report = inherited.from_pretrained(
            None,
            *model_args,
            config=stored,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, in one line
            **kwargs,
        )
        unread = set()
        if report["unexpected_keys"]:
            unread = unread_weights(name, model.base_model.vision_tower, **own)
        if not model.can_generate():
            unread.add("lm_head.weight")
        fix = "put back the one that it was trained with"
        check_report(f"{name}: with the language model {folder}", report, unread, fix)
        model.config.language_model_reference = None
        model.config.name_or_path = str(name)
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(name, **own)
        return (model, report) if wanted else model


def find_language_model(directory: Path, reference: str, **hub: Any) -> Path:
    """Finds the language model that a model directory refers to; of a name on the hub, in the cache.

    Raises:
        InputError: it is not there.
    """
    config = directory / "config.json"
    if reference.startswith(SCHEME):
        return model_path(reference)
    if not reference.startswith("."):
        with translated(f"{config}: language_model_reference", f"fetch it: hf download {reference}"):
            return Path(snapshot_download(reference, allow_patterns=["*.json", "*.safetensors"], **hub))
    found = (directory / reference).resolve()
    if not found.is_dir():
        raise InputError(
            f"{directory}: its language model {found} is not there; move it back, or correct "
            f"language_model_reference in {config}"
        )
    return found


def _language_model_weights(folder: Path) -> dict[str, Tensor]:
    """Loads all weights of a causal language model, by their names in the whole model.

    Under ZeRO-3 the processes hold parts of each. The first, which hands them on to the whole model, gets the values,
    the others tensors on the meta device.
    """
    from mllm.loading import read_config  # which imports the model's classes
    from mllm.parts import load_part

    model: Any = load_part(AutoModelForCausalLM, folder, read_config(folder, "language model"), "auto")
    named = {f"model.language_model.{key}": value for key, value in model.base_model.state_dict(keep_vars=True).items()}
    named["lm_head.weight"] = model.get_output_embeddings().weight
    if not is_deepspeed_zero3_enabled():
        return {key: value.detach() for key, value in named.items()}
    from deepspeed import zero

    first = torch.distributed.get_rank() == 0
    for key, value in named.items():
        with zero.GatheredParameters([value]):
            whole = first or not isinstance(value, nn.Parameter)  # buffers are in no parts
            named[key] = value.detach().to("cpu", copy=True) if whole else value.detach().to("meta")
    return named


def check_language_model_alone(folder: Path) -> None:
    """Raises InputError unless a directory holds a language model and nothing else, as a reference takes it."""
    from mllm.loading import read_config

    config = read_config(folder, "language model")
    if config.get_text_config() is not config:
        raise InputError(f"reference_language_model: {folder} holds a whole {config.model_type!r}; leave the field out")


def save_with_reference(
    model: PreTrainedModel, folder: Path, seen_from: Path, language_model: Path, name: str | None = None
) -> None:
    """Saves an assembled model without its language model.

    Args:
        seen_from: where the folder is going to be.
        language_model: the directory that it was assembled from.
        name: the language model's name on the hub, or as a material, to refer to instead of the directory.
    """
    from mllm.loading import read_config

    count: int = read_config(language_model, "language model").vocab_size
    ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    named = model.named_parameters(remove_duplicate=False)
    rows = {key: weight.detach()[count:].clone() for key, weight in named if weight in ends}
    leave_out_language_model(model)
    model.save_pretrained(folder)
    save_file(rows, folder / ROWS)
    _refer(folder, language_model if name is None else name, seen_from)


def leave_out_language_model(model: Any) -> None:
    """Has transformers and its Trainer save a whole model without the weights of the language model, from now on."""
    inside = {f"model.language_model.{key}" for key in model.model.language_model.state_dict()}
    leave_out_on_save(model, {*inside, "lm_head.weight"})


def keep_reference(folder: Path, base: Path, seen_from: Path | None = None) -> None:
    """Makes what was saved without its language model refer to the one of the base that it was trained from."""
    reference = str(json.loads((base / "config.json").read_text())["language_model_reference"])
    _refer(folder, base / reference if reference.startswith(".") else reference, seen_from or folder)
    if not (folder / ROWS).exists():
        shutil.copyfile(base / ROWS, folder / ROWS)


def _refer(folder: Path, language_model: str | Path, seen_from: Path) -> None:
    """Stores a directory's path relative to the model's, so that both can be moved together; or a name as it is."""
    if isinstance(language_model, Path):
        path = os.path.relpath(language_model.resolve(), seen_from.resolve())
        language_model = path if path.startswith(".") else f"./{path}"
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), "language_model_reference": language_model}
    write_json(file, dict(sorted(config.items())))

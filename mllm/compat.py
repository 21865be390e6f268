"""What depends on internals of libraries, each with its reason and the version that it was seen with.

`tests/test_compat.py` shows what the library does without our help, and fails once the help is no longer needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast

if TYPE_CHECKING:
    from transformers import TrainingArguments  # which imports peft

# The name of the cache of earlier tokens, given and returned: transformers renamed it in 5.24, which we do not demand.
CACHE = "cache" if "cache" in LlavaModelOutputWithPast.__dataclass_fields__ else "past_key_values"


@contextmanager
def loading_whole(training: TrainingArguments) -> Iterator[None]:
    """Lets one process load models for itself, also once the arguments of a ZeRO-3 training are there.

    From then on `from_pretrained` splits weights over all processes and waits for those that do not load (transformers
    5.24, whose only switch is the pair of functions below).
    """
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    config = getattr(training, "hf_deepspeed_config", None)
    if config is not None:
        unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            set_hf_deepspeed_config(config)


def untie_adapted_embeddings(base: Any) -> None:
    """Gives the head a weight of its own if it is tied to the embeddings and an adapter updates either of them.

    peft 0.21 merges the update of one of two tied weights into both, and the merged model answers otherwise.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    head = base.get_output_embeddings()
    ends = (base.get_input_embeddings(), head)
    if not base.config.tie_word_embeddings or not any(
        isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper) for end in ends
    ):
        return
    if isinstance(head, BaseTunerLayer):
        head = head.get_base_layer()
    elif isinstance(head, AuxiliaryTrainingWrapper):
        head = head.original_module
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False


def leave_out_on_save(model: PreTrainedModel, keys: Iterable[str]) -> None:
    """Has `save_pretrained` and the Trainer leave weights out, of one model; transformers 5.24 means it for classes."""
    model._keys_to_ignore_on_save = set(keys)


def loads_adapter(options: dict[str, Any]) -> bool:
    """Whether these options of `from_pretrained` come from an Auto class that was given an adapter's directory.

    transformers 5.24 looks for the adapter's base itself, and hands the directory on under this name.
    """
    return "_adapter_model_path" in (options.get("adapter_kwargs") or {})


def forget_renaming(model: Any) -> None:
    """Lets a model that was loaded under ZeRO-3 be saved under its own names.

    There transformers 5.24 keeps all of its rules for old names on the model, also those that no weight needed, and
    `save_pretrained` applies them backwards: our language model's names would get one more "model".
    """
    model._weight_conversions = None


def keeps_packed_apart(model: PreTrainedModel) -> bool:
    """Whether a model's attention keeps samples of one row apart, and nothing else flows from token to token.

    transformers 5.24 tells the second, a state as Mamba's, by a private name only.
    """
    return model.is_backend_compatible() and not model._is_stateful

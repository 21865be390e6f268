"""Text towers of transformers' CLIP and SigLIP in an open_clip model, in the place of open_clip's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open_clip.tokenizer import get_clean_fn
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    SiglipTextConfig,
    SiglipTextModel,
)

from data.errors import translated
from encoder.errors import WeightsError


class TransformersText(nn.Module):
    """What open_clip asks of `CustomTextCLIP.text`: token ids (B, L) -> embeddings (B, E), not of unit length.

    Args:
        config: of the tower, as transformers writes it; "model_type" says which it is.

    Raises:
        ValueError: a tower of another kind, or a field that it has not.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        fields = {name: value for name, value in config.items() if name != "model_type"}
        kind = config.get("model_type")
        self.model: Any
        self.projection: nn.Linear | None = None
        if kind == CLIPTextConfig.model_type:
            parsed: Any = CLIPTextConfig(**fields)
            self.model = CLIPTextModel(parsed)
            self.projection = nn.Linear(parsed.hidden_size, parsed.projection_dim, bias=False)
        elif kind == SiglipTextConfig.model_type:
            parsed = SiglipTextConfig(**fields)
            self.model = SiglipTextModel(parsed)
        else:
            raise ValueError(f"a text tower of the type {kind!r}; CLIP's and SigLIP's are known")
        # The attributes that open_clip's own towers have.
        self.context_length: int = parsed.max_position_embeddings
        self.vocab_size: int = parsed.vocab_size
        # SigLIP has only seen lower case without punctuation. SigLIP's own tokenizer sees to that, Gemma's, which
        # SigLIP 2 has under the same model type, does not.
        self.canonical_texts: bool = kind == SiglipTextConfig.model_type

    def forward(self, text: Tensor) -> Tensor:
        # Without a mask of padding: SigLIP was trained so, and in CLIP nothing looks behind the end of its text.
        pooled: Tensor = self.model(input_ids=text).pooler_output
        if self.projection is not None:
            pooled = self.projection(pooled)
        return pooled

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the tower; as in open_clip's own, a part of it cannot be left out."""
        if unlocked_layers or not freeze_layer_norm:
            raise ValueError("a text tower of transformers is locked as a whole")
        self.requires_grad_(False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes activations in the backward pass instead of keeping them."""
        if enable:
            self.model.gradient_checkpointing_enable()
        else:
            self.model.gradient_checkpointing_disable()


class TransformersTokenizer:
    """A tokenizer of transformers, called as open_clip's are: texts -> token ids (N, L), padded to the full L.

    Args:
        tokenizer: of transformers.
        text: the tower that it is for, which says what L is and in which form it knows texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: TransformersText):
        self.tokenizer = tokenizer
        self.context_length = text.context_length
        self.clean: Callable[[str], str] = get_clean_fn("canonicalize") if text.canonical_texts else str

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        ids: Tensor = self.tokenizer(
            [self.clean(text) for text in ([texts] if isinstance(texts, str) else texts)],
            padding="max_length",
            truncation=True,
            max_length=context_length or self.context_length,
            return_tensors="pt",
        )["input_ids"]
        return ids

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        self.tokenizer.save_pretrained(directory)


def load_tokenizer(directory: str | os.PathLike[str], text: TransformersText) -> TransformersTokenizer:
    """The tokenizer in a directory, for this tower.

    Raises:
        WeightsError: there is none, or one without its vocabulary.
    """
    with translated(f"{directory}: no readable tokenizer there", error=WeightsError):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        loaded = TransformersTokenizer(tokenizer, text)
        check_tokenizer(loaded)
    return loaded


def check_tokenizer(tokenizer: TransformersTokenizer) -> None:
    """Raise ValueError for one that knows no words: transformers makes such a one where files are missing."""
    cat, dog = tokenizer(["cat", "dog"])
    if cat.equal(dog):
        raise ValueError("its tokenizer cannot tell 'cat' from 'dog'; are tokenizer.json or the vocabulary missing?")

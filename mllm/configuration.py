"""Configuration of the whole model: an encoder, a projector by name and a language model."""

# Without `from __future__ import annotations`: `strict` passes over types that are strings.

from copy import deepcopy
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig, PreTrainedConfig

from encoder import SparseFormerConfig
from mllm.tower import resolve_layers, shorten_config
from projector import PROJECTORS, complete_options


@strict
class MLLMConfig(LlavaConfig):
    """Extends transformers' LLaVA configuration by a projector. It holds the parts' configurations, not their paths.

    Args:
        vision_config: of the encoder: SparseFormer, or a ViT of transformers (CLIP, SigLIP, DINOv2).
        text_config: of the language model.
        projector: its name in `projector.PROJECTORS`.
        projector_options: the projector's own options by name; those left out have its defaults.
        roi_embedding: add an embedding of each token's RoI; only with an encoder that has RoIs.
        whitening: level the variances of the encoder's features before they are projected.
        vision_feature_layer: index into the encoder's ``hidden_states``; -2 is the last block but one, as in LLaVA.
            A list of indices joins the layers' features. Once the configuration is made they are counted from the
            first, and ``vision_config`` has no more blocks than the deepest of them needs.
        vision_feature_select_strategy: "full", or "default", which in LLaVA's words leaves the first token out, the
            class token. Projectors that merge patches of a grid need that with a CLIP; a SigLIP has no class token.
        image_seq_length: embeddings per image, after the projector, unless fewer are asked for. `assemble` measures it.
        image_token_index: id of the placeholder token ``<image>``.
        language_model_reference: where the language model is, of a directory that does not hold it: a path relative
            to the directory, beginning with a dot, or a name on the hub. A loaded model has none.
    """

    model_type = "sparseformer_llava"
    if TYPE_CHECKING:  # that is what they are once the configuration is made
        vision_config: PreTrainedConfig
        text_config: PreTrainedConfig
    projector: str = "mlp2x_gelu"
    projector_options: dict[str, Any] = field(default_factory=dict)
    roi_embedding: bool = False
    whitening: bool = False
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    image_seq_length: int = 49
    language_model_reference: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        layers = resolve_layers(self.vision_feature_layer, self.vision_config)
        self.vision_feature_layer = layers[0] if isinstance(self.vision_feature_layer, int) else layers
        if max(layers) < self.vision_config.num_hidden_layers:
            self.vision_config = deepcopy(self.vision_config)
            shorten_config(self.vision_config, max(layers))

    def to_dict(self) -> dict[str, Any]:
        """Leaves out the paths that the parts were once loaded from, and an empty reference."""
        output = super().to_dict()
        for part in ("vision_config", "text_config"):
            output[part].pop("_name_or_path", None)
        if output.get("language_model_reference") is None:
            output.pop("language_model_reference", None)
        return output

    @property
    def elastic(self) -> bool:
        """Whether images may have different sizes and become different numbers of embeddings."""
        return isinstance(self.vision_config, SparseFormerConfig) and PROJECTORS[self.projector].keeps_tokens()

    def validate_architecture(self) -> None:
        """Raises ValueError in the words of the field; `strict` calls it after construction."""
        super().validate_architecture()
        if self.projector not in PROJECTORS:
            raise ValueError(f"projector={self.projector!r} is unknown; there are: {', '.join(PROJECTORS)}")
        complete_options(self.projector, self.projector_options)
        strategy = self.vision_feature_select_strategy
        if strategy not in ("default", "full"):
            raise ValueError(f"vision_feature_select_strategy={strategy!r} is unknown; there are: default, full")

"""The whole model: encode images, project their tokens, merge them into the text, let the language model go on.

It is transformers' LLaVA (arXiv 2304.08485) with other parts: generation, caching, saving and loading are inherited.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoModel, Cache, LlavaForConditionalGeneration, LlavaPreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast
from transformers.utils import torch_compilable_check
from transformers.utils.generic import can_return_tuple

from mllm.compat import CACHE
from mllm.configuration import MLLMConfig
from mllm.reference import LoadsReferences
from mllm.tower import new_tower
from projector import Projector, build_projector


def new_projector(config: MLLMConfig) -> Projector:
    """Builds the projector that a configuration names, between its encoder and its language model."""
    layers = config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    return build_projector(
        config.projector,
        width,
        config.text_config.hidden_size,
        config.roi_embedding,
        config.whitening,
        config.projector_options,
    )


class MLLMModel(LoadsReferences, LlavaPreTrainedModel):
    """Joins encoder, projector and language model, which has no head here."""

    config_class = MLLMConfig
    config: MLLMConfig

    def __init__(self, config: MLLMConfig):
        super().__init__(config)
        self.vision_tower = new_tower(config.vision_config)
        self.multi_modal_projector = new_projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes what a checkpoint lacks; the projector's layers start as they do when built."""
        reset = getattr(module, "reset_parameters", None)
        if reset is not None and any(module is part for part in self.multi_modal_projector.modules()):
            reset()
        else:
            super()._init_weights(module)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: Tensor | None = None,
        num_tokens: Tensor | None = None,
        focus_rois: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast | tuple:
        """Runs the model over text with images in it.

        Args:
            input_ids: (B, T), with as many placeholders where an image stands as it has embeddings.
            pixel_values: (P, 3, H, W), all images of the batch in the order of their placeholders; None without any.
            attention_mask: (B, T), 0 where padded, on either side.
            position_ids, **kwargs: as the language model takes them, the cache of earlier tokens among them.
            inputs_embeds: (B, T, E) instead of input_ids.
            vision_feature_layer, vision_feature_select_strategy: instead of the configuration's.
            image_sizes, num_tokens, focus_rois: as for `get_image_features`.
            mm_encoder_outputs: {"image": `get_image_features`' result} instead of pixel_values, as `generate` does it.
            return_dict: False for a tuple. The configuration's is for the model with a head, which needs names here.

        Raises:
            ValueError: placeholders and images do not agree.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        encoded: Any = (mm_encoder_outputs or {}).get("image")
        if encoded is None and pixel_values is not None:
            encoded = self.get_image_features(
                pixel_values,
                vision_feature_layer,
                vision_feature_select_strategy,
                image_sizes,
                num_tokens,
                focus_rois,
                return_dict=True,
            )
        if encoded is not None:
            inputs_embeds = self.merge(inputs_embeds, torch.cat(list(encoded.pooler_output)), input_ids)
        elif self.needs_dummy_image(kwargs.get(CACHE)):
            inputs_embeds = inputs_embeds + 0 * self.dummy_features().to(inputs_embeds.dtype)

        if self.config.output_hidden_states:
            kwargs.setdefault("output_hidden_states", True)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        result = LlavaModelOutputWithPast(**outputs)
        return result.to_tuple() if return_dict is False else result

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        image_sizes: Tensor | None = None,
        num_tokens: Tensor | None = None,
        focus_rois: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes and projects images.

        Args:
            pixel_values: (P, 3, H, W), padded at the right and at the bottom where images differ in size.
            vision_feature_layer, vision_feature_select_strategy: instead of the configuration's.
            image_sizes: (P, 2), heights and widths of padded images.
            num_tokens: (P,), how many embeddings each image becomes; None: ``image_seq_length``. The encoder looks
                with fewer tokens then, and takes less time.
            focus_rois: (P, k, 4), for additional tokens that look there; rows of NaN are padding.

        Returns:
            the encoder's output, ``pooler_output`` replaced by the projected tokens, (M, E) for each image.

        Raises:
            ValueError: an encoder or a projector that makes the same of every image.
        """
        inputs = {"image_sizes": image_sizes, "num_tokens": num_tokens, "focus_rois": focus_rois}
        encoded, tokens, rois = self.encode(
            pixel_values, vision_feature_layer, vision_feature_select_strategy, **inputs
        )
        features, mask = self.project(tokens, rois), encoded.get("attention_mask")
        if mask is None:
            encoded.pooler_output = list(features)
        else:
            encoded.pooler_output = [each[kept[-len(each) :]] for each, kept in zip(features, mask, strict=True)]
        return encoded

    def encode(
        self,
        pixel_values: Tensor,
        layer: int | list[int] | None = None,
        strategy: str | None = None,
        **inputs: Tensor | None,
    ) -> tuple[Any, Tensor, Tensor | None]:
        """Encodes images: the encoder's output, and the projector's inputs, (P, N, D) and (P, N, 4).

        Args:
            **inputs: those of `get_image_features` that a SparseFormer alone takes.
        """
        layer = self.config.vision_feature_layer if layer is None else layer
        without_first = (strategy or self.config.vision_feature_select_strategy) == "default"
        given = {name: value for name, value in inputs.items() if value is not None}
        if given and not self.config.elastic:
            raise ValueError(f"{', '.join(given)}: this model makes the same number of embeddings of every image")
        if "num_tokens" in given:
            given["num_tokens"] = given["num_tokens"] + without_first
        encoded = self.vision_tower(
            pixel_values.to(self.vision_tower.dtype), output_hidden_states=True, return_dict=True, **given
        )
        layers = [layer] if isinstance(layer, int) else layer
        states = encoded.hidden_states or (encoded.last_hidden_state,)  # without any block transformers lists none
        tokens = torch.cat([states[index] for index in layers], dim=-1)
        rois = self.rois_of(encoded, tokens)
        if without_first:
            tokens, rois = tokens[:, 1:], None if rois is None else rois[:, 1:]
        return encoded, tokens, rois

    def rois_of(self, encoded: Any, tokens: Tensor) -> Tensor | None:
        """Returns the (P, N, 4) RoIs of the (P, N, D) tokens; None if the encoder is not sparse.

        The class token has no RoI of its own: it gets the whole image.
        """
        if "rois" not in encoded:
            return None
        whole = encoded.rois.new_tensor([0, 0, 1, 1]).expand(*tokens.shape[:-1], 4)[:, encoded.rois.shape[1] :]
        return torch.cat([whole, encoded.rois], dim=1)

    def project(self, tokens: Tensor, rois: Tensor | None) -> Tensor:
        """Maps (P, N, D) to (P, M, E), in the dtype of the projector, which may be trained at a higher precision."""
        projector = self.multi_modal_projector
        return projector(tokens.to(projector.dtype), rois)

    def merge(self, inputs_embeds: Tensor, features: Tensor, input_ids: Tensor | None) -> Tensor:
        """Puts the (P·M, E) features where the placeholders are in (B, T, E).

        Raises:
            ValueError: there are more or fewer placeholders than features.
        """
        placeholder = self.config.image_token_index
        if input_ids is None:
            row = self.get_input_embeddings()(torch.tensor(placeholder, device=inputs_embeds.device))
            places = (inputs_embeds == row).all(dim=-1)
        else:
            places = input_ids == placeholder
        count = places.sum()
        message = f"Image features and image tokens do not match, tokens: {count}, features: {len(features)}"
        torch_compilable_check(count == len(features), message)
        features = features.to(inputs_embeds.device, inputs_embeds.dtype)
        return inputs_embeds.masked_scatter(places[..., None].to(inputs_embeds.device), features)

    def needs_dummy_image(self, cache: Cache | None) -> bool:
        """Whether a batch without images must still go through encoder and projector.

        Under ZeRO, every process takes part in gathering weights and reducing gradients, module by module. If one
        process had a batch of text alone and left two modules out, the others would wait for it for ever. So a dummy
        image is encoded and added with the factor 0: no value changes, and the gradients are zeros. This holds in
        training, always, so that one process computes what several would; and in evaluation while there are several.
        """
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        start = cache is None or cache.get_seq_length() == 0
        return (self.training or several) and start

    def dummy_features(self) -> Tensor:
        """Returns one number that depends on every weight that an image's features depend on."""
        size = self.config.vision_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        image = torch.zeros(1, 3, height, width, dtype=self.vision_tower.dtype, device=self.device)
        _, tokens, rois = self.encode(image)
        return self.project(tokens, rois).mean()


class MLLMForConditionalGeneration(LoadsReferences, LlavaForConditionalGeneration):
    """Adds the language model's head to `MLLMModel`: this is what is trained, saved and asked."""

    config_class = MLLMConfig
    config: MLLMConfig

    def __init__(self, config: MLLMConfig):
        LlavaPreTrainedModel.__init__(self, config)  # LlavaForConditionalGeneration's would build LLaVA's own parts
        self.model = MLLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        embeddings = self.get_input_embeddings()  # families differ in what they call them
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    def prepare_inputs_for_generation(
        self, *args: Any, num_tokens: Tensor | None = None, focus_rois: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Names what `MLLMModel.get_image_features` takes beyond LLaVA's: `generate` accepts what it finds here."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        return inputs

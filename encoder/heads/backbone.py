"""A SparseFormer as a backbone of transformers' heads: maps in place of tokens."""

from __future__ import annotations

from torch import Tensor
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from encoder.configuration import SparseFormerConfig
from encoder.heads.grid import splat
from encoder.modeling import SparseFormerPreTrainedModel, SparseFormerVisionModel

STRIDE = 16
"""Of the maps that tokens are spread over, in pixels of the image."""


class SparseFormerBackbone(BackboneMixin, SparseFormerPreTrainedModel):
    """For `AutoBackbone`: "stem" is the early feature map, "stage1" and so on the tokens behind each block of the
    cortex, spread over a map of stride 16 as `encoder.heads.grid.splat` does; the last ones are normed."""

    _keys_to_ignore_on_load_unexpected = [r"projection\."]  # noqa: RUF012

    def __init__(self, config: SparseFormerConfig):
        config.projection_dim = None
        config.set_output_features_output_indices(config._out_features, config._out_indices)
        super().__init__(config)
        self.num_features = [config.early_channels, *[config.hidden_size] * config.num_hidden_layers]
        self.sparseformer = SparseFormerVisionModel(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: object
    ) -> BackboneOutput:
        """(B, 3, H, W) -> a map (B, C, h, w) of each of ``out_features``."""
        given = {**kwargs, "return_dict": True, "output_features": True, "output_hidden_states": True}
        outputs = self.sparseformer(pixel_values, **given)
        height, width = (-(-side // STRIDE) for side in pixel_values.shape[-2:])
        tokens = [*outputs.hidden_states[1:-1], outputs.last_hidden_state]
        maps = []
        for name in self.out_features:
            index = self.stage_names.index(name)
            if index == 0:
                maps.append(outputs.features)
            else:
                latent = tokens[index - 1][:, int(self.config.class_token) :]
                maps.append(splat(latent, outputs.rois, height, width))
        states = outputs.hidden_states if output_hidden_states else None
        return BackboneOutput(feature_maps=tuple(maps), hidden_states=states)

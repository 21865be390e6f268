"""A SparseFormer that tells classes apart: its projection leads to them."""

from __future__ import annotations

from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from encoder.configuration import SparseFormerConfig
from encoder.modeling import SparseFormerPreTrainedModel, SparseFormerVisionModel


class SparseFormerForImageClassification(SparseFormerPreTrainedModel):
    """An image's embedding is its logits, as in the published classifiers: the weights are a vision model's.

    So a directory of either loads as the other. Where ``num_labels`` is not the width of the projection that is there,
    a new one takes its place, and `from_pretrained` wants ``ignore_mismatched_sizes=True``.
    """

    def __init__(self, config: SparseFormerConfig):
        super().__init__(config)
        if config.projection_dim != config.num_labels:
            config.projection_dim, config.projection_bias = config.num_labels, True
        self.num_labels = config.num_labels
        self.sparseformer = SparseFormerVisionModel(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> ImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: (B, 3, H, W).
            labels: (B,), numbers of classes; with them there is a loss.
            **kwargs: as `SparseFormerVisionModel` takes them, ``num_tokens`` say.
        """
        outputs = self.sparseformer(
            pixel_values, output_hidden_states=output_hidden_states, **{**kwargs, "return_dict": True}
        )
        logits = outputs.image_embeds
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

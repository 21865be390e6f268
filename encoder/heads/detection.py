"""A SparseFormer that finds objects: its tokens are DETR's queries (arXiv 2005.12872), their RoIs the first boxes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from encoder import geometry
from encoder.configuration import SparseFormerConfig
from encoder.layers import ZeroLinear
from encoder.modeling import SparseFormerPreTrainedModel, SparseFormerVisionModel

# What DETR weights its matching and its losses by.
_LOSS = {
    **{"class_cost": 1, "bbox_cost": 5, "giou_cost": 2},
    **{"bbox_loss_coefficient": 5, "giou_loss_coefficient": 2, "eos_coefficient": 0.1, "auxiliary_loss": False},
}


@dataclass
class DetectionOutput(ModelOutput):
    """What `SparseFormerForObjectDetection` returns, under the names that DETR has for it.

    Attributes:
        loss: weighted sum of ``loss_dict``'s.
        logits: (B, N', K + 1), the last class is no object.
        pred_boxes: (B, N', 4), center x, center y, width and height as fractions of the image.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class SparseFormerForObjectDetection(SparseFormerPreTrainedModel):
    """Each latent token names one object or none, and corrects its last RoI to the object's box."""

    _keys_to_ignore_on_load_unexpected = [r"projection\."]  # noqa: RUF012

    def __init__(self, config: SparseFormerConfig):
        config.projection_dim = None
        super().__init__(config)
        self.num_labels, width = len(config.id2label or {}), config.hidden_size
        self.sparseformer = SparseFormerVisionModel(config)
        self.class_labels_classifier = nn.Linear(width, self.num_labels + 1)  # the last one: no object
        self.box_hidden = nn.Linear(width, width)
        self.box_delta = ZeroLinear(width, 4)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers' own
    def forward(
        self,
        pixel_values: Tensor,
        labels: list[dict[str, Tensor]] | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: object,
    ) -> DetectionOutput:
        """Finds objects.

        Args:
            pixel_values: (B, 3, H, W).
            labels: of each image "class_labels" (n,) and "boxes" (n, 4), center x, center y, width and height as
                fractions of the image; with them there is a loss.
            **kwargs: as `SparseFormerVisionModel` takes them, ``num_tokens`` say.
        """
        outputs = self.sparseformer(
            pixel_values, output_hidden_states=output_hidden_states, **{**kwargs, "return_dict": True}
        )
        tokens = outputs.last_hidden_state[:, int(self.config.class_token) :]
        delta = self.box_delta(F.gelu(self.box_hidden(tokens)).to(outputs.rois.dtype))
        boxes = box_convert(geometry.adjust_rois(outputs.rois, delta).clamp(0, 1), "xyxy", "cxcywh")
        logits = self.class_labels_classifier(tokens)
        loss, parts = None, None
        if labels is not None:
            config: Any = SimpleNamespace(**_LOSS, num_labels=self.num_labels)
            with torch.autocast(logits.device.type, enabled=False):
                loss, parts, _ = self.loss_function(logits.float(), labels, logits.device, boxes.float(), config)
        return DetectionOutput(
            loss=loss,
            loss_dict=parts,
            logits=logits,
            pred_boxes=boxes,
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
        )

"""The published SparseFormers as models of timm's: ``import encoder.timm_models``, then ``timm.create_model`` has them.

timm's own scripts, which its package does not bring, know them where this module runs them:

    python -m encoder.timm_models validate.py --model sparseformer_v1_tiny --pretrained --data-dir /data/imagenet

State dicts have our names, so that ``checkpoint_path=DIR/model.safetensors`` is what `save_pretrained` wrote.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from encoder.configuration import SparseFormerConfig
from encoder.modeling import SparseFormerVisionModel
from encoder.official import RELEASE, published_names
from encoder.presets import PRESETS
from encoder.weights import named_tensors

default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": RELEASE.format(name=name),
            "num_classes": preset.config["projection_dim"],
            "input_size": (3, preset.crop, preset.crop),
            "crop_pct": preset.crop / preset.resize,
            "interpolation": "bicubic",
            "mean": preset.mean,
            "std": preset.std,
            "classifier": "projection",
        }
        for name, preset in PRESETS.items()
    }
)


class TimmSparseFormer(SparseFormerVisionModel):
    """A SparseFormer with the interface of timm's models.

    Args:
        name: of one of `PRESETS`.
        num_classes: width of the projection; 0 for none.
        num_tokens: how many it uses, the class token counted; None: its own number.
        config: other fields of its configuration, ``drop_path_rate`` say.
    """

    def __init__(
        self, name: str, num_classes: int, in_chans: int = 3, num_tokens: int | None = None, **config: Any
    ) -> None:
        if in_chans != 3:
            raise ValueError(f"in_chans={in_chans}: a SparseFormer takes images of 3 channels")
        fields = PRESETS[name].config
        if num_classes != fields["projection_dim"]:
            fields = fields | {"projection_dim": num_classes or None, "projection_bias": True}
        super().__init__(SparseFormerConfig(**fields | config))
        self.num_classes, self.used_tokens = num_classes, num_tokens
        self.num_features = self.head_hidden_size = self.embed_dim = self.config.hidden_size

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, D), not normed, as pooling comes first in some."""
        states = super().forward(x, num_tokens=self.used_tokens, output_hidden_states=True).hidden_states
        assert states is not None
        last: Tensor = states[-1]
        return last

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, N, D) -> logits (B, K), or what they are made of (B, D)."""
        pooled = self.pool(x)[1]
        if pre_logits or self.projection is None:
            return pooled
        logits: Tensor = self.projection(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.projection or nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.projection = nn.Linear(self.num_features, num_classes).to(self.device) if num_classes else None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            self.gradient_checkpointing_enable()
        else:
            self.gradient_checkpointing_disable()

    def no_weight_decay(self) -> set[str]:
        return {"latent.embedding", "latent.rois", "class_token.embedding"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": LAYERS["stem"], "blocks": r"^layers\.(\d+)" if coarse else LAYERS["blocks"]}


LAYERS: dict[str, Any] = {
    "stem": r"^(?:sparseformer\.)?(?:early_convolution|inherited_stem|latent)\.",
    "blocks": [
        (r"^(?:sparseformer\.)?layers\.(\d+)", None),
        (r"^", (99999,)),  # the rest: class token, final norm, head
    ],
}
"""The layers of a SparseFormer, alone or under a task, as timm says it of its models."""


def _weights(content: Mapping[str, Any], model: TimmSparseFormer) -> dict[str, Tensor]:
    """What a published file holds, or one of ours, by our names."""
    weights, names = named_tensors(content, "the file of weights"), published_names(model)
    return {names.get(name, name): weight for name, weight in weights.items()}


def _entrypoint(name: str) -> Callable[..., TimmSparseFormer]:
    def build(pretrained: bool = False, **kwargs: Any) -> TimmSparseFormer:
        model: TimmSparseFormer = build_model_with_cfg(
            TimmSparseFormer, name, pretrained, pretrained_filter_fn=_weights, name=name, **kwargs
        )
        return model

    build.__name__ = name
    registered: Callable[..., TimmSparseFormer] = register_model(build)
    return registered


ENTRYPOINTS = [_entrypoint(name) for name in PRESETS]


def main() -> None:
    """Runs the script that the command line names, as if it had been called itself."""
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

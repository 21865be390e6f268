"""Write tests/golden/encoder.safetensors: outputs of three small SparseFormers whose weights come from a formula.

Run `python -m tests.golden.make`, and only when the published implementation has been agreed with
(tests/test_encoder.py::test_agrees_with_the_official_implementation): what other tests compare with, of sizes and
image shapes that the official cases do not have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from encoder import SparseFormerConfig, SparseFormerVisionModel
from encoder.configuration import bootstrapped_units, v1_units

FILE = Path(__file__).parent / "encoder.safetensors"

V1 = {
    "units": v1_units(64, 128, 1, repeats=2),
    "num_latent_tokens": 16,
    "num_sampling_points": 9,
    "early_channels": 16,
    "class_token": False,
    "shared_embedding": False,
    "repeat_embedding": False,
    "transition_norm": True,
    "roi_head": "linear",
    "mixing_hidden_size": None,
    "mixing_bias": True,
    "sampling_padding": "zeros",
    "attention_head_dim": None,
    "num_attention_heads": 64,
    "layer_norm_eps": 1e-6,
    "projection_dim": 10,
    "projection_bias": True,
}
AUGREG = {
    "units": bootstrapped_units(64, 128, 3, repeats=3),
    "num_latent_tokens": 15,
    "early_channels": 16,
    "mixing_hidden_size": 32,
    "projection_dim": 24,
    "projection_bias": True,
}
CASES = {"v1": V1, "augreg": AUGREG, "clip": AUGREG | {"hidden_act": "quick_gelu", "projection_bias": False}}


def wave(shape: tuple[int, ...], phase: int) -> Tensor:
    """Numbers of about unit size, the same on every machine and version: sines of integers, float64."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * 1.7 + phase).sin().mul(1.4).view(shape)


def model_and_input(case: str) -> tuple[SparseFormerVisionModel, Tensor]:
    """The case's model in float64 and its image (2, 3, 48, 64)."""
    model = SparseFormerVisionModel(SparseFormerConfig(**CASES[case])).double().eval()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(model.named_parameters())):
            noise = wave(tuple(parameter.shape), index) * 0.05
            parameter.copy_(
                noise + (parameter if name == "latent.rois" else 1.0 if name.endswith("norm.weight") else 0.0)
            )
    return model, wave((2, 3, 48, 64), 0)


def outputs(case: str) -> dict[str, Tensor]:
    """What the case computes, and the gradients of Σ image_embeds² of a few parameters."""
    model, images = model_and_input(case)
    result = model(images)
    (result.image_embeds**2).sum().backward()
    return {
        "image_embeds": result.image_embeds.detach(),
        "last_hidden_state": result.last_hidden_state.detach(),
        "rois": result.rois.detach(),
        "grad.conv": model.early_convolution.conv.weight.grad,
        "grad.rois": model.latent.rois.grad,
        "grad.offset_bias": model.layers[0].sample.offset_bias.grad,
    }


if __name__ == "__main__":
    save_file({f"{case}.{name}": v.contiguous() for case in CASES for name, v in outputs(case).items()}, FILE)

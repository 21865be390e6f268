"""torch.export and torch.jit.trace of the encoder: made with one batch size, run with others."""

from __future__ import annotations

import io

import pytest
import torch

from encoder import SparseFormerVisionModel
from encoder.image_processing import SparseFormerImageProcessor
from encoder.open_clip_tower import SparseFormerTower
from tests import tiny

POOL = {"width": 32, "heads": 4, "mlp": True, "norm": False}
VARIANTS = {
    "class token": {"projection_dim": 12},
    "v1's mean, moved RoIs clamped": {"class_token": False, "clamp_position_gradient": True},
    "attention pool, eager": {"class_token": False, "attention_pool": POOL, "attn_implementation": "eager"},
}


def make(**changes) -> SparseFormerVisionModel:
    torch.manual_seed(0)
    return SparseFormerVisionModel(tiny.sparseformer_config(**changes)).eval()


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 48, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def check(ours, traced) -> None:
    for batch in (1, 3, 5):
        given = images(batch)
        torch.testing.assert_close(traced(given), ours(given), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_export_with_a_dynamic_batch(name):
    model = make(**VARIANTS[name])
    dynamic = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        program = torch.export.export(model, (images(2),), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    check(lambda given: model(given).embedding, lambda given: again(given).embedding)
    check(lambda given: model(given).rois, lambda given: again(given).rois)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_trace(name):
    model = make(**VARIANTS[name])

    class Representation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return self.model(pixel_values).embedding

    with torch.no_grad():
        check(Representation(), torch.jit.trace(Representation(), images(2)))


def test_export_of_the_tower_in_open_clip():
    tower = SparseFormerTower(make(projection_dim=12), SparseFormerImageProcessor(size=32, crop_size=32))
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        check(tower, torch.export.export(tower, (images(2),), dynamic_shapes=dynamic).module())

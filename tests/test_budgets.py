"""Any number of tokens and any size of image, mixed within a batch: each image is seen as if it were alone."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from data import InputError
from encoder import SparseFormerConfig, SparseFormerVisionModel, geometry
from encoder.image_processing import SparseFormerImageProcessor, whole_image
from tests import tiny
from tests.golden import make

POOL = {"width": 32, "heads": 4, "mlp": True, "norm": False}
KINDS = {
    "class token": {},
    "mean": {"class_token": False, "pooling": "normed_mean"},
    "attention pool": {"class_token": False, "attention_pool": POOL},
    "v1": {**make.V1, "nested_tokens": True},
    "zeros": {"sampling_padding": "zeros"},
}


def model_of(**changes) -> SparseFormerVisionModel:
    torch.manual_seed(2)
    config = tiny.sparseformer_config(**{"nested_tokens": True, "num_latent_tokens": 9, **changes})
    model = SparseFormerVisionModel(SparseFormerConfig(**changes) if "units" in changes else config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images_of(*sizes: tuple[int, int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Noise of these sizes, one by one (1, 3, h, w), and padded with other noise (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(1)
    each = [torch.randn(1, 3, *size, generator=generator, dtype=torch.float64) for size in sizes]
    padded = torch.randn(len(sizes), 3, *map(max, zip(*sizes, strict=True)), generator=generator, dtype=torch.float64)
    for index, image in enumerate(each):
        padded[index, :, : image.shape[2], : image.shape[3]] = image[0]
    return each, padded


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("count", [2, 5, 17, 49, 64])
def test_every_beginning_of_the_nested_rois_covers_the_image(count):
    rois = geometry.nested_rois(count)
    assert rois.shape == (count, 4)
    assert len({tuple(roi) for roi in rois.tolist()}) == count
    assert rois[0].tolist() == [0, 0, 1, 1]
    assert torch.allclose(rois[1:, 2:] - rois[1:, :2], torch.tensor(0.5))
    # from five on, the boxes alone cover it, and no part of it is left to a far corner of one
    points = torch.cartesian_prod(*[torch.linspace(0, 1, 41)] * 2)
    centers = (rois[1:, :2] + rois[1:, 2:]) / 2
    farthest = [torch.cdist(points, centers[:n]).min(dim=1).values.max().item() for n in range(4, count)]
    assert all(distance <= 0.36 for distance in farthest)
    assert all(after <= before for before, after in itertools.pairwise(farthest))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_image_is_seen_as_if_alone_whatever_its_batch(kind, attention):
    model = model_of(**KINDS[kind])
    model.set_attn_implementation(attention)
    sizes, counts = [(32, 32), (21, 57), (48, 24)], [3, 9, 5]
    each, padded = images_of(*sizes)
    together = model(
        padded, num_tokens=torch.tensor(counts), image_sizes=torch.tensor(sizes), output_sampling_points=True
    )
    latent = [count - model.config.class_token for count in counts]
    assert together.attention_mask.sum(dim=1).tolist() == counts
    for index, (image, count) in enumerate(zip(each, counts, strict=True)):
        alone = model(image, num_tokens=count, output_sampling_points=True)
        assert alone.attention_mask is None
        assert alone.last_hidden_state.shape[1] == count
        assert near(alone.last_hidden_state[0], together.last_hidden_state[index, :count])
        assert near(alone.embedding[0], together.embedding[index])
        assert near(alone.rois[0], together.rois[index, : latent[index]])
        for points, all_points in zip(alone.sampling_points, together.sampling_points, strict=True):
            assert near(points[0], all_points[index, : latent[index]])


def test_padding_gets_and_gives_no_gradient():
    model = model_of()
    sizes, counts = [(32, 32), (20, 44)], [4, 10]
    each, padded = images_of(*sizes)
    padded.requires_grad_()
    model(padded, num_tokens=counts, image_sizes=sizes).embedding.square().sum().backward()
    together = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    for image, count in zip(each, counts, strict=True):
        model(image, num_tokens=count).embedding.square().sum().backward()
    named = dict(model.named_parameters())
    for name, gradient in together.items():
        assert near(gradient, named[name].grad), name
    assert padded.grad[0, :, :, 32:].abs().max() == 0
    assert padded.grad[1, :, 20:].abs().max() == 0


def test_fewer_tokens_are_the_first_ones():
    model = model_of()
    _, images = images_of((32, 32), (32, 32))
    few = (
        SparseFormerVisionModel(SparseFormerConfig(**{**model.config.to_dict(), "num_latent_tokens": 4}))
        .double()
        .eval()
    )
    weights = model.state_dict()
    few.load_state_dict({**weights, "latent.rois": weights["latent.rois"][:4]})
    assert torch.equal(few(images).embedding, model(images, num_tokens=5).embedding)


def test_more_tokens_look_where_the_caller_says():
    model = model_of()
    _, images = images_of((32, 32), (32, 32))
    given = torch.tensor([[[0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]], [[0.1, 0.2, 0.3, 0.4], [torch.nan] * 4]])
    seen = model(images, num_tokens=4, focus_rois=given.double())
    assert seen.attention_mask.tolist() == [[True] * 6, [True] * 5 + [False]]
    assert near(seen.all_rois[0][0, 3:], given[0].double())
    one = model(images[1:], num_tokens=4, focus_rois=given[1:, :1].double())
    assert near(one.embedding[0], seen.embedding[1])
    none = model(images, num_tokens=4, focus_rois=torch.full((2, 1, 4), torch.nan))
    assert near(none.embedding, model(images, num_tokens=4).embedding)
    assert not near(none.embedding[0], seen.embedding[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tokens": 1}, "num_tokens=1: choose at least 2 and at most 10"),
        ({"num_tokens": [4, 11]}, "num_tokens=11: choose at least 2 and at most 10"),
        ({"num_tokens": [4, 5, 6]}, "3 numbers for 2 images"),
        ({"image_sizes": [(32, 32), (33, 32)]}, "at most"),
        ({"focus_rois": torch.zeros(2, 4)}, "(2, k, 4) is needed"),
    ],
)
def test_what_cannot_be(arguments, message):
    _, images = images_of((32, 32), (32, 32))
    with pytest.raises(ValueError, match=re.escape(message)):
        model_of()(images, **arguments)


def test_tokens_that_are_not_nested_start_as_those_of_an_untrained_model():
    model = model_of(nested_tokens=False)
    _, images = images_of((32, 32), (32, 32))
    together = model(images, num_tokens=[17, 5])
    for index, count in enumerate((17, 5)):
        assert near(together.embedding[index], model(images[index : index + 1], num_tokens=count).embedding[0])
    assert near(together.all_rois[0][0], geometry.initial_rois(16).double())


def test_whole_images_keep_their_aspect_ratio():
    processor = SparseFormerImageProcessor()
    images = [tiny.image(1, 1000, 333), tiny.image(2, 97, 131), tiny.image(3, 3000, 1)]
    batch = processor(images, return_tensors="pt", **whole_image(112))
    assert batch["image_sizes"].tolist() == [[65, 194], [130, 96], [2, 6134]]
    assert batch["pixel_values"].shape == (3, 3, 130, 6134)
    assert batch["pixel_values"][0, :, 65:].abs().max() == 0
    with pytest.raises(InputError, match="image_size=0"):
        whole_image(0)


def test_the_image_processor_hands_on_how_images_are_looked_at():
    processor = SparseFormerImageProcessor()
    batch = processor(
        [tiny.image(1), tiny.image(2)], num_tokens=[8, 16], focus_rois=[[], [[0, 0, 0.5, 0.5]]], return_tensors="pt"
    )
    assert batch["num_tokens"].tolist() == [8, 16]
    assert batch["focus_rois"].isnan().all(dim=-1).tolist() == [[True], [False]]
    assert processor([tiny.image(1), tiny.image(2)], num_tokens=8)["num_tokens"] == [8, 8]
    with pytest.raises(ValueError, match="num_tokens: 3 are given for 2 images"):
        processor([tiny.image(1), tiny.image(2)], num_tokens=[8, 8, 8])

"""Projectors: registry, shapes, what the RoI embedding does."""

from __future__ import annotations

import math

import pytest
import torch

from projector import PROJECTORS, Projector, build_projector, register_projector
from projector.roi import roi_features

D, E = 12, 20


@pytest.mark.parametrize("roi_embedding", [False, True])
@pytest.mark.parametrize("name", ["linear", "mlp2x_gelu"])
def test_shapes_and_gradients(name, roi_embedding):
    projector = build_projector(name, D, E, roi_embedding=roi_embedding)
    features, rois = torch.randn(2, 5, D), torch.rand(2, 5, 4)
    out = projector(features, rois)
    assert out.shape == (2, projector.num_tokens(5), E) == (2, 5, E)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())


def test_mlp_is_llavas():
    projector = build_projector("mlp2x_gelu", D, E)
    features = torch.randn(2, 3, D)
    hidden = features @ projector.linear_1.weight.T + projector.linear_1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = hidden @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features), expected)


def test_whitening_levels_variances_and_takes_the_mean_away():
    directions = torch.linalg.qr(torch.randn(D, D)).Q
    features = torch.randn(5000, D) * torch.logspace(1, 0, D) @ directions + 30
    projector = build_projector("linear", D, E, whitening=True)
    plain = projector(features)
    assert torch.allclose(plain, projector.linear(features), rtol=1e-4, atol=1e-4)  # nothing before it has been fitted
    projector.whitening.fit(features, strength=1.0)
    white = projector.whitening(features)
    assert torch.allclose(white.mean(0), torch.zeros(D), atol=1e-3)
    assert torch.allclose(torch.cov(white.T), torch.eye(D), atol=1e-2)
    assert torch.allclose(projector(features), projector.linear(white), atol=1e-5)
    projector.whitening.fit(features)  # in part: the order of the variances stays
    spectrum = torch.linalg.eigvalsh(torch.cov(projector.whitening(features).T))
    assert 10**0.8 * 0.9 < spectrum[-1] / spectrum[0] < 10**0.8 * 1.1
    assert "whitening.matrix" in projector.state_dict()
    assert not any(name.startswith("whitening") for name, _ in projector.named_parameters())


def test_whitening_that_cannot_be_measured_is_refused():
    whitening = build_projector("linear", D, E, whitening=True).whitening
    with pytest.raises(ValueError, match=f"{D} tokens for {D} directions"):
        whitening.fit(torch.randn(D, D))
    with pytest.raises(ValueError, match="are alike"):
        whitening.fit(torch.ones(D + 1, D))


def test_roi_embedding_starts_as_nothing_and_then_tells_places_apart():
    projector = build_projector("linear", D, E, roi_embedding=True)
    features = torch.randn(1, 1, D).expand(1, 2, D)
    rois = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5]]])
    out = projector(features, rois)
    assert torch.equal(out, projector.project(features, rois))
    torch.nn.init.normal_(projector.roi_embedding.weight)
    out = projector(features, rois)
    assert not torch.allclose(out[:, 0], out[:, 1])
    torch.testing.assert_close(out, projector(features, rois.double()), atol=1e-3, rtol=1e-3)


def test_roi_features():
    rois = torch.tensor([0.5, 0.0, 1.0, -0.25], requires_grad=True)
    features = roi_features(rois, frequencies=3)
    assert features.shape == (24,)
    assert not features.requires_grad
    frequencies = [math.pi, math.pi * math.sqrt(128), math.pi * 128]
    expected = [f(x * w) for x in rois.tolist() for f in (math.sin, math.cos) for w in frequencies]
    torch.testing.assert_close(features, torch.tensor(expected), atol=1e-4, rtol=0)
    assert roi_features(rois.to(torch.bfloat16), 3).dtype == torch.float32
    assert roi_features(rois.double(), 3).dtype == torch.float64


def test_roi_embedding_without_rois_raises():
    with pytest.raises(ValueError, match="roi_embedding needs"):
        build_projector("linear", D, E, roi_embedding=True)(torch.randn(1, 2, D))


def test_unknown_and_taken_names():
    with pytest.raises(ValueError, match="unknown projector 'mlp'; there are: linear, mlp2x_gelu"):
        build_projector("mlp", D, E)
    with pytest.raises(ValueError, match="'linear' exists already: Linear"):
        register_projector("linear")(Projector)


def test_a_projector_that_merges_tokens():
    """The interface carries it: fewer tokens out than in, by the places they looked at."""

    class Leftmost(Projector):
        def __init__(self, in_features, out_features, roi_embedding=False):
            super().__init__(in_features, out_features, roi_embedding)
            self.linear = torch.nn.Linear(in_features, out_features)

        def num_tokens(self, count):
            return count // 2

        def pick(self, rows, rois):
            order = rois[..., 0].argsort(dim=1)[:, : self.num_tokens(rois.shape[1])]
            return rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))

        def project(self, features, rois):
            return self.linear(self.pick(features, rois))

        def merge_rois(self, rois):
            return self.pick(rois, rois)

    register_projector("leftmost")(Leftmost)
    try:
        projector = build_projector("leftmost", D, E, roi_embedding=True)
        rois = torch.rand(2, 6, 4)
        assert projector(torch.randn(2, 6, D), rois).shape == (2, 3, E)
    finally:
        del PROJECTORS["leftmost"]

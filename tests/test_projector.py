"""Projectors: registry and options, shapes, what each computes, what the RoI embedding does."""

from __future__ import annotations

import math

import pytest
import torch

from projector import PROJECTORS, Projector, build_projector, complete_options, register_projector
from projector.grid import GridProjector
from projector.registry import fourier_features

D, E = 12, 20


@pytest.mark.parametrize(
    ("name", "options", "tokens", "expected"),
    [
        ("linear", {}, 5, 5),
        ("mlp2x_gelu", {}, 5, 5),
        ("roi_mlp", {"frequencies": 3}, 5, 5),
        ("resampler", {"queries": 3, "heads": 4}, 5, 3),
        ("resampler", {"queries": 7, "layers": 1, "heads": 2, "width": 16}, 5, 7),
        ("pixel_shuffle", {}, 16, 4),
        ("average_pool", {"ratio": 3}, 36, 4),
    ],
)
def test_shapes_and_gradients(name, options, tokens, expected):
    grid = issubclass(PROJECTORS[name], GridProjector)  # patches have no RoIs
    for roi_embedding in (False,) if grid else (False, True):
        projector = build_projector(name, D, E, roi_embedding, options=options)
        features, rois = torch.randn(2, tokens, D), None if grid else torch.rand(2, tokens, 4)
        out = projector(features, rois)
        assert out.shape == (2, projector.num_tokens(tokens), E) == (2, expected, E)
        out.square().sum().backward()
        for parameter in projector.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


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
    features = fourier_features(rois, frequencies=3)
    assert features.shape == (24,)
    assert not features.requires_grad
    frequencies = [math.pi, math.pi * math.sqrt(128), math.pi * 128]
    expected = [f(x * w) for x in rois.tolist() for f in (math.sin, math.cos) for w in frequencies]
    torch.testing.assert_close(features, torch.tensor(expected), atol=1e-4, rtol=0)
    assert fourier_features(rois.to(torch.bfloat16), 3).dtype == torch.float32
    assert fourier_features(rois.double(), 3).dtype == torch.float64


def test_roi_embedding_without_rois_raises():
    with pytest.raises(ValueError, match="roi_embedding needs"):
        build_projector("linear", D, E, roi_embedding=True)(torch.randn(1, 2, D))


def test_unknown_and_taken_names():
    with pytest.raises(ValueError, match="unknown projector 'mlp'; there are: linear, mlp2x_gelu"):
        build_projector("mlp", D, E)
    with pytest.raises(ValueError, match="'linear' exists already"):
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
        del PROJECTORS.members["leftmost"]


# -------------------------------------------------------------------------------------------------------- the new ones


def test_pixel_shuffle_and_average_pool_merge_neighbors():
    """Each projected token comes from the four patches of one square, in the order of reading."""
    row = torch.arange(16.0)[None, :, None]  # patch n of a 4 x 4 grid has the feature n
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    means = [[2.5], [4.5], [10.5], [12.5]]
    for name, merged in (("pixel_shuffle", squares), ("average_pool", means)):
        projector = build_projector(name, 1, 8)
        hidden = torch.nn.functional.gelu(projector.linear_1(torch.tensor(merged, dtype=torch.float32)))
        torch.testing.assert_close(projector(row)[0], projector.linear_2(hidden))


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (17, {}, "17 tokens are no square grid of patches; is the first the class token.*select_strategy"),
        (15, {}, "15 tokens are no square grid of patches$"),
        (81, {}, "9 x 9 patches cannot be divided by ratio=2; by 3, 9"),
        (16, {"ratio": 3}, "4 x 4 patches cannot be divided by ratio=3; by 2, 4"),
    ],
)
@pytest.mark.parametrize("name", ["pixel_shuffle", "average_pool"])
def test_tokens_that_are_no_grid_are_refused(name, tokens, options, message):
    projector = build_projector(name, D, E, options=options)
    with pytest.raises(ValueError, match=message):
        projector.num_tokens(tokens)
    with pytest.raises(ValueError, match=message):
        projector(torch.randn(1, tokens, D))


def test_what_needs_rois_and_what_refuses_them():
    features, rois = torch.randn(1, 16, D), torch.rand(1, 16, 4)
    for name in ("pixel_shuffle", "average_pool"):
        with pytest.raises(ValueError, match="a SparseFormer's tokens lie on none: take resampler"):
            build_projector(name, D, E)(features, rois)
    with pytest.raises(ValueError, match="roi_mlp needs the tokens' RoIs"):
        build_projector("roi_mlp", D, E)(features)
    with pytest.raises(ValueError, match="roi_embedding needs the tokens' RoIs"):
        build_projector("resampler", D, E, True, options={"heads": 4})(features)


def test_roi_mlp_by_hand():
    projector = build_projector("roi_mlp", D, E, options={"frequencies": 2})
    features, rois = torch.randn(2, 5, D), torch.rand(2, 5, 4)
    normed = (features - features.mean(-1, keepdim=True)) / (features.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    hidden = torch.cat([normed, fourier_features(rois, 2)], -1) @ projector.linear_1.weight.T + projector.linear_1.bias
    expected = torch.nn.functional.gelu(hidden) @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features, rois), expected)


def test_resampler_reads_a_set():
    """The tokens' order does not matter to it, unless their places are told; and any number of them is taken."""
    torch.manual_seed(0)
    features, rois = torch.randn(1, 6, D), torch.rand(1, 6, 4)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain = build_projector("resampler", D, E, options={"queries": 3, "heads": 4})
    torch.testing.assert_close(plain(features), plain(features[:, order]))
    assert not torch.allclose(plain(features), plain(features[:, :4]), atol=1e-3)
    placed = build_projector("resampler", D, E, True, options={"queries": 3, "heads": 4})
    before = placed(features, rois)
    torch.nn.init.normal_(placed.token_rois.weight)
    assert not torch.allclose(placed(features, rois), before, atol=1e-3)
    torch.testing.assert_close(placed(features[:, order], rois[:, order]), placed(features, rois))
    assert not torch.allclose(placed(features[:, order], rois), placed(features, rois), atol=1e-3)


def test_cross_attention_by_hand():
    layer = build_projector("resampler", D, E, options={"queries": 3, "heads": 4, "layers": 1}).layers[0].attention
    queries, tokens = torch.randn(2, 3, D), torch.randn(2, 5, D)
    normed = layer.query_norm(queries)
    read = torch.cat([layer.token_norm(tokens), normed], dim=1)
    heads = []
    for part in torch.arange(D).split(D // 4):
        query, key, value = (
            linear(rows)[..., part] for linear, rows in ((layer.query, normed), (layer.key, read), (layer.value, read))
        )
        heads.append((query @ key.mT / math.sqrt(D // 4)).softmax(-1) @ value)
    torch.testing.assert_close(layer(queries, tokens), layer.out(torch.cat(heads, -1)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"ratio": 2}, "'linear' has no option 'ratio'"),
        ("resampler", {"quieres": 2}, "has no option 'quieres'"),
        ("resampler", {"queries": "2"}, "option 'queries' of projector 'resampler' must be int, not '2'"),
        ("resampler", {"queries": True}, "must be int, not True"),
        ("resampler", {"width": 2.5}, "must be int or null, not 2.5"),
        ("resampler", {"queries": 0}, "queries=0: at least 1"),
        ("resampler", {"heads": 5}, "heads=5 is no divisor of the resampler's width 12"),
        ("pixel_shuffle", {"ratio": 0}, "ratio=0: at least 1"),
        ("roi_mlp", {"frequencies": 0}, "frequencies=0: at least one"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_projector(name, D, E, options=options)


def test_options_are_completed():
    assert complete_options("linear") == {}
    expected = {"queries": 9, "layers": 2, "heads": 8, "width": None}
    assert complete_options("resampler", {"queries": 9, "width": None}) == expected

"""Losses of bootstrapping by hand-made numbers, and where their gradients go."""

from __future__ import annotations

import math

import pytest
import torch

from encoder import SparseFormerOutput, SparseFormerVisionModel
from encoder.bootstrapping.balance import Balance
from encoder.bootstrapping.heads import GridDecoder
from encoder.bootstrapping.losses import (
    LOSSES,
    Answer,
    Target,
    check_losses,
    cosine,
    focus,
    read_rois,
    relational,
    tokens,
)
from encoder.teachers import open_clip_teacher
from tests import tiny
from tests.test_bootstrapping import tiny_clip

# A grid of 2 x 2 patches, 1 2 above 3 4; the second channel is ten times that.
GRID = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None] * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)


def represented(values) -> SparseFormerOutput:
    return SparseFormerOutput(pooler_output=torch.tensor(values))


def test_cosine_by_hand():
    target = Target(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert cosine(represented([[3.0, 0.0], [0.0, 1.0]]), target) == pytest.approx(0.0)
    assert cosine(represented([[0.0, 5.0], [0.0, -1.0]]), target) == pytest.approx((1 + 2) / 2)


def test_patches_are_read_where_the_rois_are():
    boxes = [
        ([0.25, 0.25, 0.25, 0.25], 1.0),  # the middle of a patch
        ([0.75, 0.25, 0.75, 0.25], 2.0),  # x before y
        ([0.25, 0.75, 0.75, 0.75], 3.5),  # from the middle of one to that of the next
        ([0.0, 0.0, 1.0, 1.0], 2.5),
        ([-3.0, -3.0, 4.0, 4.0], 2.5),  # what is outside is left out
        ([1.5, 1.5, 2.0, 2.0], 4.0),
    ]
    read = read_rois(GRID, torch.tensor([[box for box, _ in boxes]]))
    expected = torch.tensor([[value, 10 * value] for _, value in boxes])
    torch.testing.assert_close(read[0], expected)


def test_tokens_by_hand():
    # Patches (1, 0, 0) and (0, 1, 0), which normed are (2, -1, -1) / sqrt(2) and (-1, 2, -1) / sqrt(2).
    patches = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).T.reshape(1, 3, 1, 2)
    rois = torch.tensor([[[0.25, 0.5, 0.25, 0.5], [0.75, 0.5, 0.75, 0.5], [0.25, 0.5, 0.75, 0.5]]])
    class_token, first, second = [9.0, -9.0, 9.0], [5.0, 1.0, 1.0], [1.0, 1.0, 3.0]
    between = [1.0, 1.0, 0.0]
    hidden = torch.tensor([[class_token, first, second, between]])
    student = SparseFormerOutput(hidden_states=(torch.zeros(1, 4, 3), hidden), rois=rois)
    # The first is the patch, the second (-1, -1, 2) has the cosine -3 / 6 with it, the third is the mean of both.
    loss = tokens(student, Target(torch.zeros(1, 2), patches))
    assert loss == pytest.approx((0 + 1.5 + 0) / 3, abs=1e-5)


def test_relational_by_hand():
    target = Target(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))  # at right angles
    assert relational(represented([[0.0, 2.0], [-4.0, 0.0]]), target) == pytest.approx(0.0)
    at_60_degrees = [[1.0, 0.0], [0.5, math.sqrt(3) / 2]]
    assert relational(represented(at_60_degrees), target) == pytest.approx(0.25)
    assert relational(represented([[1.0, 2.0]]), Target(torch.ones(1, 2))) == 0.0


def test_focus_by_hand():
    patches = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).T.reshape(1, 3, 1, 2)  # as far from their mean

    def loss(*rois: list[float]) -> float:
        return focus(SparseFormerOutput(rois=torch.tensor([rois])), Target(torch.zeros(1, 2), patches)).item()

    left, right = [0.0, -1.0, 0.5, 2.0], [0.5, -1.0, 1.0, 2.0]
    # Along x they deviate by half a patch, the least: 4/sqrt(2 pi) times a patch's half of the image, exp(-2) of that
    # at the next patch. Along y they deviate by 1: 1/sqrt(2 pi).
    near, far = 1 / math.pi, math.exp(-2) / math.pi
    assert loss(left) == pytest.approx((math.log(0.5 / near) + math.log(0.5 / far)) / 2)
    assert loss(left, right) == pytest.approx(math.log(0.5 / ((near + far) / 2)))


def test_focus_draws_rois_from_afar():
    patches = torch.zeros(1, 4, 8, 8)
    patches[0, 1:] = 1.0
    patches[0, :, 1, 2] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    rois = torch.tensor([[[0.7, 0.6, 0.9, 0.8]]], requires_grad=True)
    for _ in range(600):
        output = SparseFormerOutput(rois=rois)
        (gradient,) = torch.autograd.grad(focus(output, Target(torch.zeros(1, 2), patches)), rois)
        rois = (rois - 0.003 * gradient.clamp(-1, 1)).detach().requires_grad_()
    center = (rois[0, 0, :2] + rois[0, 0, 2:]) / 2
    torch.testing.assert_close(center, torch.tensor([2.5 / 8, 1.5 / 8]), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_reach_the_student(name):
    torch.manual_seed(0)
    student = SparseFormerVisionModel(tiny.sparseformer_config())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    output = student(torch.randn(3, 3, 32, 32), output_hidden_states=True, output_token_embeds=True)
    balance = Balance.of("phi_s", torch.randn(9, 32))
    target = Target(torch.randn(3, 32), torch.randn(3, 32, 4, 4), torch.randn(3, 32, 4, 4), balance, balance)
    decoded = GridDecoder(student.config, 32)(output.last_hidden_state[:, 1:], output.rois, target.grid)
    output = Answer(**output, grid=decoded)
    LOSSES[name](output, target).backward()
    last = student.layers[0].roi.delta if name == "focus" else student.cortex[0].attn.qkv
    for parameter in (student.early_convolution.conv.weight, last.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_gradient_of_a_loss_is_that_of_its_formula():
    target = Target(torch.randn(3, 4, dtype=torch.float64))

    def loss(values: torch.Tensor) -> torch.Tensor:
        return relational(SparseFormerOutput(pooler_output=values.float()), target)

    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (values,), eps=1e-2, atol=1e-2, nondet_tol=1e-3)


def test_a_teacher_gives_its_patches():
    clip = tiny_clip()
    teacher = open_clip_teacher(clip.visual)
    images = torch.randn(2, 3, 32, 32)
    embeddings, patches = teacher.with_patches(images)
    assert torch.equal(embeddings, teacher(images))
    assert patches.shape == (2, 64, 4, 4)
    clip.visual.output_tokens = True
    normed = clip.visual(images)[1]  # open_clip's own, row by row, behind the final norm
    assert torch.allclose(clip.visual.ln_post(patches.flatten(2).mT), normed, atol=1e-5)
    assert not clip.visual.transformer.resblocks[-1]._forward_hooks


def test_losses_that_make_no_sense():
    for weights, words in (
        ({"cosine": 1.0, "l2": 1.0}, "unknown l2; there are cosine, tokens, places, relational, focus"),
        ({"cosine": -1.0}, "at least 0"),
        ({"cosine": 0.0}, "one is more"),
    ):
        with pytest.raises(ValueError, match=words):
            check_losses(weights)
    student = SparseFormerVisionModel(tiny.sparseformer_config())
    teacher = open_clip_teacher(tiny_clip().visual)
    check_losses({"cosine": 1.0, "tokens": 0.0, "focus": 1.0}, student, teacher)
    with pytest.raises(ValueError, match="32 wide, the teacher's 64"):
        check_losses({"tokens": 1.0}, student, teacher)

"""On a GPU: the kernels, the encoder and a training step agree with what the CPU computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests import kernel_cases
from tests.golden import make

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", list(kernel_cases.CASES))
def test_the_kernels_agree_with_the_reference(name):
    case = kernel_cases.CASES[name]
    differences = kernel_cases.differences(case, "cuda")
    assert all(value < kernel_cases.bound(case) for value in differences.values()), differences


@pytest.mark.parametrize("kernel", ["torch", "triton"])
@pytest.mark.parametrize("case", list(make.CASES))
def test_the_encoder_agrees_with_the_cpu(case, kernel):
    model, images = make.model_and_input(case)
    with torch.no_grad():
        expected = model(images).last_hidden_state
        model.float().cuda().config.sampling_kernel = kernel
        found = model(images.float().cuda()).last_hidden_state
    assert ((found.cpu().double() - expected).norm() / expected.norm()).item() < 1e-3  # TF32 is off by default


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model, images = make.model_and_input("clip")
    with torch.no_grad():
        expected = model(images).image_embeds
        found = model.to("cuda", dtype)(images.to("cuda", dtype)).image_embeds
    assert F.cosine_similarity(found.cpu().double(), expected).min() > 0.99


def test_a_cuda_graph_agrees_with_eager():
    model, images = make.model_and_input("clip")
    model, images = model.float().cuda(), images.float().cuda()
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    with torch.no_grad():
        expected = model(images).image_embeds
        for _ in range(3):  # the first calls record the graph
            found = compiled(images).image_embeds.clone()
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kernel", ["torch", "triton"])
def test_gradients_agree_with_the_cpu(kernel):
    model, images = make.model_and_input("clip")
    model.float().train()
    gradients = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        model.config.sampling_kernel = kernel if device == "cuda" else "torch"
        model(images.float().to(device)).image_embeds.square().sum().backward()
        gradients.append(
            {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
        )
    expected, found = gradients
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-2 * gradient.norm() + 1e-6, name

"""Cases that the Triton kernels must compute as the PyTorch path does; also a program, for a GPU or the interpreter.

`python -m tests.kernel_cases --device cuda`, or with TRITON_INTERPRET=1 and no device, prints one line of JSON a case:
the largest relative difference (norm over norm) of each result and gradient.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder import kernels


@dataclass(frozen=True)
class Case:
    """B images of N tokens, P points, C channels, P' mixed points, a feature map of height and width."""

    batch: int
    tokens: int
    points: int
    channels: int
    out_points: int
    size: tuple[int, int]
    dtype: torch.dtype = torch.float32
    bias: bool = False
    padding: str = "border"
    gradient_bound: float | None = None
    far: float = 0.0  # how far RoIs lie outside the image


CASES = {
    "bootstrapped": Case(1, 5, 16, 64, 32, (7, 9)),
    "v1": Case(2, 3, 9, 48, 32, (5, 6), bias=True, padding="zeros"),
    "ragged": Case(3, 3, 5, 20, 17, (6, 4), padding="zeros"),
    "outside": Case(2, 3, 4, 16, 16, (5, 5), far=0.6),
    "outside, zeros": Case(2, 3, 4, 16, 16, (5, 5), padding="zeros", bias=True, far=0.6),
    "one token, clamped": Case(1, 1, 4, 16, 16, (8, 4), gradient_bound=0.05),
    "bfloat16": Case(1, 4, 16, 32, 32, (6, 6), torch.bfloat16),
    "bfloat16, biases": Case(1, 3, 9, 16, 16, (6, 6), torch.bfloat16, bias=True, padding="zeros"),
    "float16": Case(1, 4, 16, 32, 32, (6, 6), torch.float16, bias=True),
}


def inputs(case: Case, device: str) -> dict[str, Tensor | None]:
    """Random tensors in the order and with the names that `kernels.sample_and_mix` takes them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    corner = torch.rand(case.batch, case.tokens, 2, generator=generator) * 0.6 + case.far * normal(2)
    side = torch.rand(case.batch, case.tokens, 2, generator=generator) * 0.6 + 0.1
    inner = case.channels**2 + case.out_points * case.points
    tensors = {
        "features": normal(case.batch, case.channels, *case.size),
        "rois": torch.cat([corner, corner + side], dim=-1),
        "offsets": normal(case.batch, case.tokens, case.points, 2) * 2 + 1,
        "weights": (normal(case.batch, case.tokens, inner) * case.channels**-0.5).to(case.dtype),
        "channel_bias": normal(case.channels) if case.bias else None,
        "point_bias": normal(case.out_points) if case.bias else None,
    }
    return {name: None if x is None else x.to(device).requires_grad_() for name, x in tensors.items()}


def run(case: Case, device: str, kernel: str, exact: bool = False) -> dict[str, Tensor]:
    """Results and gradients of one kernel; ``exact``: with all tensors, as they are, in float64."""
    tensors = inputs(case, device)
    if exact:
        tensors = {name: None if x is None else x.detach().double().requires_grad_() for name, x in tensors.items()}
    mixed, positions = kernels.sample_and_mix(
        *tensors.values(), padding=case.padding, gradient_bound=case.gradient_bound, kernel=kernel
    )
    towards = torch.Generator().manual_seed(1)
    wanted = [torch.randn(x.shape, generator=towards).to(x) for x in (mixed, positions)]
    torch.autograd.backward([mixed, positions], wanted)
    gradients = {f"grad.{name}": x.grad for name, x in tensors.items() if x is not None}
    return {"mixed": mixed.detach(), "positions": positions.detach(), **gradients}


def differences(case: Case, device: str) -> dict[str, float]:
    """Relative difference of the Triton kernels' results and gradients from the reference's in float64."""
    found, expected = run(case, device, "triton"), run(case, device, "torch", exact=True)
    assert found["mixed"].dtype == case.dtype
    return {name: ((found[name].double() - x).norm() / x.norm()).item() for name, x in expected.items()}


def bound(case: Case) -> float:
    """What a difference may be: a few roundings of the products' type."""
    return {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}[case.dtype]


def golden(device: str) -> float:
    """A small model's image embedding, float32 through the kernels against the golden figures."""
    from safetensors.torch import load_file

    from tests.golden import make

    expected = load_file(make.FILE)["v1.image_embeds"]
    model, images = make.model_and_input("v1")
    model.float().to(device).config.sampling_kernel = "triton"
    found = model(images.float().to(device)).image_embeds
    return ((found.cpu().double() - expected).norm() / expected.norm()).item()


if __name__ == "__main__":
    device = sys.argv[2] if sys.argv[1:2] == ["--device"] else "cpu"
    lines = [{"case": name, **differences(case, device)} for name, case in CASES.items()]
    lines.append({"case": "golden", "image_embeds": golden(device)})
    sys.stdout.writelines(f"{json.dumps(line)}\n" for line in lines)

"""The fused sampling kernels: their numbers in Triton's interpreter or on a GPU, their compilation, torch.compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from encoder import SparseFormerConfig, kernels
from projector import build_projector
from tests import kernel_cases
from tests.golden import make

# The kernels have their own process where Triton must not be its interpreter, or must be.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
ROOT = Path(__file__).parents[1]
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from encoder.kernels.operator import launch
from encoder.kernels.triton_sampling import backward_kernel, forward_kernel

FIXED = {"height": "i32", "width": "i32", "tokens": "i32", "bound": "fp32"}
FIXED |= dict.fromkeys(["weights", "mixed", "d_mixed", "d_weights"], "*bf16")
for sizes in ((16, 64, 32), (36, 96, 36)):
    for kernel in (forward_kernel, backward_kernel):
        options = launch(*sizes)
        how = {name: options.pop(name) for name in ("num_warps", "num_stages")}
        constants = dict(zip("PCQ", sizes)) | options | {"BORDER": True, "BIAS": sizes[0] == 36}
        constants |= {"CLAMP": True} if kernel is backward_kernel else {}
        signature = {n: "constexpr" if n in constants else FIXED.get(n, "*fp32") for n in kernel.arg_names}
        values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(kernel, signature, constexprs=values)
        print(triton.compile(source, target=GPUTarget("cuda", 80, 32), options=how).metadata.shared)
"""


def python(*arguments: str, **environment: str) -> list[str]:
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_interpreter_agrees_with_the_reference():
    pytest.importorskip("triton")
    found = {
        line.pop("case"): line for line in map(json.loads, python("-m", "tests.kernel_cases", TRITON_INTERPRET="1"))
    }
    assert found.pop("golden")["image_embeds"] < 1e-5
    assert found.keys() == kernel_cases.CASES.keys()
    for name, differences in found.items():
        limit = kernel_cases.bound(kernel_cases.CASES[name])
        assert all(value < limit for value in differences.values()), (name, differences)


def test_the_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    pytest.importorskip("triton")
    shared = [int(line) for line in python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))]
    assert len(shared) == 4
    assert max(shared) <= 99 * 1024  # what a program may have on a GPU for desktops


def test_the_kernel_is_chosen_or_refused():
    rois = torch.zeros(1, 1, 4)
    assert not kernels.uses_triton("auto", rois, 16, 64, 32)
    assert not kernels.uses_triton("torch", rois, 16, 64, 32)
    model, images = make.model_and_input("clip")
    model.config.sampling_kernel = "triton"
    with pytest.raises(RuntimeError, match=r"sampling_kernel='triton': .*(not installed|on cpu)"):
        model(images)
    with pytest.raises(Exception, match="sampling_kernel"):
        SparseFormerConfig(sampling_kernel="cuda")


def count_graphs(module: torch.nn.Module, *batches: tuple[torch.Tensor, ...]) -> int:
    """Graphs that torch.compile makes of a module for batches of several sizes; its results are checked."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for batch in batches:
        for tensor in batch:
            torch._dynamo.mark_dynamic(tensor, 0)
        found, expected = compiled(*batch), module(*batch)
        for name in ("last_hidden_state", "rois") if hasattr(found, "rois") else (slice(None),):
            assert torch.allclose(found[name], expected[name], atol=1e-5)
    return len(graphs)


@pytest.mark.parametrize("case", ["v1", "clip"])
def test_the_encoder_is_one_graph_for_every_batch_size(case):
    model, _ = make.model_and_input(case)
    model.float().train()
    images = torch.randn(4, 3, 32, 32)
    assert count_graphs(model, (images[:2],), (images[:3],), (images,)) == 1


@pytest.mark.parametrize("name", ["linear", "mlp2x_gelu", "resampler"])
def test_a_projector_is_one_graph_for_every_batch_size(name):
    projector = build_projector(name, 32, 16, roi_embedding=True, whitening=True)
    tokens, rois = torch.randn(4, 5, 32), torch.rand(4, 5, 4)
    assert count_graphs(projector, (tokens[:2], rois[:2]), (tokens, rois)) == 1


def test_the_operators_trace_without_a_gpu():
    from torch._subclasses.fake_tensor import FakeTensorMode

    from encoder.kernels import operator

    with FakeTensorMode():
        features, rois, offsets = torch.randn(2, 6, 7, 32), torch.rand(2, 3, 4), torch.rand(2, 3, 16, 2)
        weights = torch.randn(2, 3, 32 * 32 + 20 * 16, dtype=torch.float16, requires_grad=True)
        mixed, positions = operator.forward(features, rois, offsets, weights, None, None, True, None)
        assert mixed.shape == (2, 3, 20, 32)
        assert mixed.dtype == torch.float16
        assert positions.shape == offsets.shape
        mixed.sum().backward()
        assert weights.grad.shape == weights.shape

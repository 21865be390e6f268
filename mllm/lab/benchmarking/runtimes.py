"""Cases of `mllm bench runtimes`: encoders eager, in int8, and exported to other runtimes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.exporting import Graph, Runner, write_graph
from encoder.quantization import float_layers
from mllm.lab.benchmarking.case import META, Case, Place, random_images
from mllm.lab.benchmarking.encoders import Encoder, encoder_cases, find_encoder

DEFAULT_ENCODERS = ("sparseformer_btsp_openai_clip_large", "ViT-L-14")
# name -> format, whether in int8, what OpenVINO computes in
RUNTIMES = {
    "ONNX Runtime": ("onnx", False, "f32"),
    "ONNX Runtime int8": ("onnx", True, "f32"),
    "OpenVINO": ("openvino", False, "f32"),
    "OpenVINO bf16": ("openvino", False, "bf16"),
    "OpenVINO int8": ("openvino", True, "f32"),
}


class _Embedding(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.encoder(images)}


class Exported(nn.Module):
    """An encoder in another runtime: (B, 3, H, W) -> (B, E); ``cosine`` is the least of some images' to PyTorch's."""

    IMAGES = 4
    weights: Tensor

    def __init__(self, encoder: Encoder, runtime: str):
        super().__init__()
        form, int8, precision = RUNTIMES[runtime]
        module = _Embedding(encoder.build(torch.device("cpu"))).eval().requires_grad_(False)
        images = random_images(self.IMAGES, encoder.image_size, torch.device("cpu"))
        floats = float_layers(module) if encoder.config is not None else frozenset[str]()
        graph = Graph("encoder", module, {"images": images}, {"images": {0: "batch_size"}}, floats)
        with tempfile.TemporaryDirectory() as folder:
            path = write_graph(graph, Path(folder), form, int8)
            self.session = Runner(path, torch.get_num_threads(), precision)
            bytes_on_disk = sum(file.stat().st_size for file in Path(folder).iterdir())
        # The runtime holds the weights; so they are counted.
        self.register_buffer("weights", torch.empty(bytes_on_disk, dtype=torch.uint8, device=META))
        with torch.no_grad():
            self.cosine = F.cosine_similarity(module(images)["embedding"], self(images)).min().item()

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session(images=images.numpy())["embedding"])


def runtime_cases(names: Sequence[str]) -> list[Case]:
    """Lists cases for each encoder: as it is, of a SparseFormer int8 by `encoder.quantize`, and in each runtime.

    Raises:
        InputError: an unknown name.
    """
    cases = []
    for name in names:
        eager, *int8 = encoder_cases([name], int8=True)
        cases += [eager, *int8, *(_exported(eager, find_encoder(name), runtime) for runtime in RUNTIMES)]
    return cases


def _exported(case: Case, encoder: Encoder, runtime: str) -> Case:
    """Counted on the float model, as int8 is."""

    def build(place: Place) -> nn.Module:
        return case.build(place) if place.device == META else Exported(encoder, runtime)

    def cosine(module: nn.Module) -> float:
        assert isinstance(module, Exported)
        return module.cosine

    return replace(case, name=f"{case.name}, {runtime}", build=build, reference=case.full_name, cosine=cosine)

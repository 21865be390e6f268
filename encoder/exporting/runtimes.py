"""Runs exported graphs, which shows that they compute what the model does, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.exporters.utils import get_leaf_tensors

from data.errors import InputError
from encoder.exporting.graph import Graph

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}


class Runner:
    """An exported graph in its runtime on a CPU: arrays by name in, arrays by name out.

    Args:
        path: of the graph, whose name tells the format.
        threads: that it computes with; None: the runtime's choice.
        precision: "f32" or "bf16", which OpenVINO computes in.
    """

    def __init__(self, path: Path, threads: int | None = None, precision: str = "f32"):
        self.path = path
        self.session: Any
        if path.suffix == FORMATS["onnx"]:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads or 0
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.inputs = [each.name for each in self.session.get_inputs()]
            self.outputs = [each.name for each in self.session.get_outputs()]
        else:
            import openvino

            hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
            if threads is not None:
                hints["INFERENCE_NUM_THREADS"] = threads
            self.session = openvino.Core().compile_model(str(path), "CPU", hints)
            self.inputs = [each.get_any_name() for each in self.session.inputs]
            self.outputs = [each.get_any_name() for each in self.session.outputs]

    def __call__(self, **inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        given = {name: np.asarray(inputs[name]) for name in self.inputs}
        if self.path.suffix == FORMATS["onnx"]:
            return dict(zip(self.outputs, self.session.run(self.outputs, given), strict=True))
        found = self.session(given)
        return {name: found[index] for index, name in enumerate(self.outputs)}


@torch.no_grad()
def differences(graph: Graph, run: Runner) -> dict[str, float]:
    """How far the outputs are from PyTorch's for the example, the most of each, as a fraction of the largest value.

    Raises:
        InputError: what is computed is no number.
    """
    expected: dict[str, Tensor] = get_leaf_tensors(graph.module(**graph.inputs))
    found = run(**{name: value.numpy() for name, value in get_leaf_tensors(graph.inputs).items()})
    result = {}
    for name, value in expected.items():
        result[name] = float((torch.from_numpy(found[name]) - value).abs().max() / value.abs().max().clamp(min=1e-6))
        if not np.isfinite(result[name]):
            raise InputError(f"{run.path.name}: its {name} is no number; this model cannot be exported so")
    return result

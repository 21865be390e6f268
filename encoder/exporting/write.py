"""Graphs become files, by transformers' exporters."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map
from transformers.exporters.utils import get_leaf_tensors

from data.errors import translated
from encoder.exporting.graph import Graph
from encoder.exporting.runtimes import FORMATS

MOST_IN_ONE_FILE = 2**30  # bytes of weights; a protobuf holds at most twice as much


def write_graph(graph: Graph, folder: Path, form: str, int8: bool = False) -> Path:
    """Writes a graph: float32, or its matmuls' weights as int8, and their inputs too, on the fly.

    Args:
        folder: that exists.
        form: one of FORMATS.
        int8: the file's name then ends with "_quantized", as transformers.js looks for it.

    Returns:
        the file; weights may lie beside it.

    Raises:
        InputError: a package is missing, or this model cannot be exported.
    """
    write = {"onnx": _write_onnx, "openvino": _write_openvino}[form]
    path = folder / f"{graph.name}{'_quantized' if int8 else ''}{FORMATS[form]}"
    extras = "export,nncf" if int8 and form == "openvino" else "export"
    fix = f"pip install 'sparseformer-mllm[{extras}]' has what is needed"
    with translated(f"--to {form}: {graph.name}", fix), _quiet(), torch.no_grad():
        write(graph, path, int8)
    return path


def _write_onnx(graph: Graph, path: Path, int8: bool) -> None:
    import onnx_ir
    from transformers.exporters import OnnxConfig, OnnxExporter

    config = OnnxConfig(dynamic_shapes=_dynamic(graph))
    module: Any = graph.module  # they ask for a model of transformers, and take any
    program, _ = OnnxExporter().export_program(module, dict(graph.inputs), config)
    _name_axes(program, graph.dimensions)
    if int8:
        program = _quantized(program, graph)
    values = [each.const_value for each in program.graph.initializers.values()]
    size = sum(value.nbytes for value in values if value is not None)
    onnx_ir.save(program, path, external_data=f"{path.name}_data" if size > MOST_IN_ONE_FILE else None)


def _write_openvino(graph: Graph, path: Path, int8: bool) -> None:
    from transformers.exporters import OpenVINOConfig, OpenVINOExporter

    config = OpenVINOConfig(dynamic_shapes=_dynamic(graph), stateful=False)
    if int8:
        from transformers.exporters import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

        config.quantizer = NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig())
    module: Any = graph.module
    program, _ = OpenVINOExporter().export_program(module, dict(graph.inputs), config)
    OpenVINOExporter.save_program(program, path)


def _quantized(program: Any, graph: Graph) -> Any:
    from transformers.exporters import ExportFormat, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    floats = [
        node.name
        for node in program.graph
        if graph.floats & set(ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")))
    ]
    config = OnnxRuntimeDynamicConfig(
        op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, nodes_to_exclude=floats
    )
    return OnnxRuntimeQuantizer(config).quantize(program, graph.inputs, ExportFormat.ONNX)


def _dynamic(graph: Graph) -> Any:
    """What `torch.export` takes: every axis that has a name may have another size."""
    names = iter(get_leaf_tensors(graph.inputs))
    return tree_map(lambda _: dict.fromkeys(graph.dimensions[next(names)], torch.export.Dim.DYNAMIC), graph.inputs)


def _name_axes(program: Any, dimensions: Mapping[str, Mapping[int, str]]) -> None:
    """Names the axes, everywhere; `torch.export` numbers them."""
    import onnx_ir

    renamed = {
        value.shape[axis].value: name for value in program.graph.inputs for axis, name in dimensions[value.name].items()
    }
    values = [*program.graph.inputs, *(value for node in program.graph.all_nodes() for value in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value in renamed:
                value.shape[axis] = renamed[size.value]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what packages think of their versions to themselves, and progress from the results on stdout."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)

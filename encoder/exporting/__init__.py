"""Models for runtimes without Python: ONNX Runtime, in a browser too, and OpenVINO.

transformers' own exporters trace (by `torch.export`) and translate; here are the graphs, and their names.
"""

from encoder.exporting.graph import Graph, encoder_graph
from encoder.exporting.runtimes import FORMATS, Runner, differences
from encoder.exporting.write import write_graph

__all__ = ["FORMATS", "Graph", "Runner", "differences", "encoder_graph", "write_graph"]

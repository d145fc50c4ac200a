"""From a trained network to one that can be shipped: fewer units, fewer kinds of step, ONNX."""

from trainers.lowering.onnx_writer import onnx_model
from trainers.lowering.simplify import simplify

__all__ = ["onnx_model", "simplify"]

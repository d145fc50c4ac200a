"""From a trained network to one that can be shipped: fewer units, fewer kinds of step, ONNX."""

from trainers.lowering.simplify import simplify

__all__ = ["simplify"]

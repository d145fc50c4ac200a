"""Networks built from a configuration: `build_model`, `initialize`, and their two layers."""

from trainers.models.build import build_model
from trainers.models.initialization import initialize
from trainers.models.layers import Normalize, Residual
from trainers.models.weights import prunable_weights

__all__ = ["Normalize", "Residual", "build_model", "initialize", "prunable_weights"]

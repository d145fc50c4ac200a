"""The optimizer that a config names."""

from __future__ import annotations

import torch
from torch import nn

from spaces.training import OptimizerConfig


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `config` names; weight decay acts on weights, not on biases or norms."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    # Unfused, the square roots of a sparse network's zeros make a step of Adam three times as long.
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.name == "radam":
        return torch.optim.RAdam(groups, lr=config.lr)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=True)

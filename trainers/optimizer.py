"""The optimizer that a config names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spaces.training import OptimizerConfig
from trainers.models.grafted import grafted_relus


def build_optimizer(
    config: OptimizerConfig, model: nn.Module, line_lr_scale: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer that `config` names; weight decay acts on weights, not on biases or norms.

    Lines of GraftedReLUs are a group whose learning rate is to be multiplied by its `lr_scale`.
    """
    lines = {p: None for relu in grafted_relus(model).values() for p in relu.parameters()}
    rest = [p for p in model.parameters() if p.requires_grad and p not in lines]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if lines:
        groups.append({"params": list(lines), "weight_decay": 0.0, "lr_scale": line_lr_scale})
    # Unfused, the square roots of a sparse network's zeros make a step of Adam three times as long.
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.name == "radam":
        return torch.optim.RAdam(groups, lr=config.lr)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=True)

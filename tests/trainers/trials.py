"""Small trials on digits that several tests here share."""

import torch

from spaces import TrialConfig

RIGL = {"method": "rigl", "density": 0.2, "update_every": 3}


def config(**changes: object) -> TrialConfig:
    base = {
        "data": {"name": "digits"},
        "evaluation": {"radius": 0.05, "radii": [0.02], "examples": 60, "epoch_examples": 60},
        "epochs": 3,
        "model": {"family": "mlp", "widths": [32]},
        "topology": RIGL,
        "optimizer": {"lr": 0.01},
    }
    return TrialConfig.model_validate({**base, **changes})


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


LOSSES = ("natural", "pgd", "ibp", "crown_ibp", "sabr", "mtl_ibp", "taps", "staps")

METHODS: dict[str, dict[str, object]] = {
    "dense": {"method": "dense"},
    "static": {"method": "static"},
    "snip": {"method": "snip", "saliency": "certified"},
    "grasp": {"method": "grasp"},
    "synflow": {"method": "synflow", "rounds": 5},
    "set": {"method": "set", "update_every": 2, "drop": "sensitivity"},
    "rigl": {"method": "rigl", "update_every": 2, "granularity": "unit"},
    "sparsevlr": {"method": "sparsevlr", "update_every": 2},
    "ctre": {"method": "ctre", "update_every": 2, "patience": 1},
    "gmp": {"method": "gmp", "update_every": 2, "drop": "momentum"},
    "stability": {"method": "stability", "update_every": 2},
    "gap": {"method": "gap", "update_every": 2, "granularity": "2:4"},
    "acdc": {"method": "acdc", "cycles": 1},
    "deadwooding": {"method": "deadwooding", "cut": 0.3},
    "gibbs": {"method": "gibbs"},
    "slimming": {"method": "slimming", "penalty": 0.01},
    "hard_concrete": {"method": "hard_concrete"},
    "jackpots": {"method": "jackpots", "search_start": 0.3},
}
"""Each changes masks, or is in a relaxed phase, on either side of the first of two epochs."""


def sparse(method: str, loss: str | dict = "ibp", **changes: object) -> TrialConfig:
    """Two epochs of five steps with a method at density 0.3."""
    base = {
        "topology": {} if method == "dense" else {"density": 0.3},
        "model": {"family": "mlp", "widths": [16, 12], "batch_norm": True},
        "loss": {"name": loss} if isinstance(loss, str) else loss,
        "epochs": 2,
        "batch_size": 180,
    }
    base["topology"] |= METHODS[method]
    return config(**{**base, **changes})

"""Small random networks of every kind of layer that has bounds, in float64."""

import torch
import torch.nn.functional as F
from torch import nn

from trainers.models.grafted import GraftedReLU


class Normalized(nn.Module):
    """Normalisation by buffers, a residual block with batch normalisation, pooling, a head."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4]).view(1, 1, 1))
        self.register_buffer("std", torch.tensor([0.5]).view(1, 1, 1))
        self.stem = nn.Conv2d(1, 4, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, 1, 1)
        self.pool = nn.AvgPool2d(2, 1)
        self.head = nn.Linear(4 * 9, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem((x - self.mean) / self.std)))
        x = F.relu(self.body(x) + x)
        return self.head(self.pool(x).flatten(1))


class Shortcut(nn.Module):
    """Two branches with weights of their own, added, then averaged over space."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(1, 3, 1, 2)
        self.c, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(F.relu(self.a(x)) + self.b(x))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


def _mlp():
    return nn.Sequential(
        nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(),
        nn.Linear(10, 4),
    )  # fmt: skip


def _cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip


def _grafted():
    """ReLUs of which some are lines, rising and falling."""
    layers = [nn.Conv2d(1, 4, 3, 2, 1), GraftedReLU((4, 4, 4)), nn.Conv2d(4, 3, 3, 2, 1)]
    model = nn.Sequential(*layers, GraftedReLU((3, 2, 2)), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        for relu in (model[1], model[3]):
            relu.grafted.copy_(torch.rand(relu.grafted.shape) < 0.4)
            relu.slope.uniform_(-1.0, 1.0), relu.bias.uniform_(-0.3, 0.3)
    return model


def _relu_last():
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU())


_IMAGE = (1, 8, 8)
FAMILIES = {
    "mlp": (_mlp, (5,)),
    "cnn": (_cnn, _IMAGE),
    "residual": (Normalized, _IMAGE),
    "shortcut": (Shortcut, _IMAGE),
    "relu last": (_relu_last, (5,)),
    "grafted": (_grafted, _IMAGE),
}


def family(name, seed=0, num_examples=4):
    """A network of a family, in evaluation mode and float64, and examples in [0, 1]."""
    make, shape = FAMILIES[name]
    torch.manual_seed(seed)
    model = make().double()
    with torch.no_grad():
        model.train()(torch.rand(32, *shape, dtype=torch.float64))
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.weight.uniform_(-1.0, 2.0), norm.bias.uniform_(-0.3, 0.3)
    return model.eval(), torch.rand(num_examples, *shape, dtype=torch.float64)

"""A user's own task, as `module:function` names it."""

import torch
from torch import nn


def moons(seed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    return model, ((x[:150], y[:150]), (x[150:], y[150:])), lambda net, x, y: nn.functional.cross_entropy(net(x), y)


def nothing(seed):
    return seed

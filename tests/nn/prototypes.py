import torch
from torch import Tensor


def prototypes(count: int = 128, *, inputs: int = 64, classes: int = 10, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Return noisy copies of one random picture a class, and the classes: data like small digits."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(classes, inputs, generator=generator)
    targets = torch.arange(count) % classes
    return pictures[targets] + 0.2 * torch.randn(count, inputs, generator=generator), targets

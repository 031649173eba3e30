"""SWAN's update (arXiv 2412.13148) without centring, in float64, from its formulas and by eigenvalues."""

import torch


def swan(g: torch.Tensor) -> torch.Tensor:
    g = g.double()
    normalized = g / g.square().mean(-1, keepdim=True).sqrt()
    values, vectors = torch.linalg.eigh(normalized @ normalized.mT)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.mT @ normalized

"""Run by test_sharded_options.py in two processes: sharded parameters must move as whole ones do."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from steepest import optim
from steepest.cli._leaving import leaving_at_once
from steepest.geometry.polar import polar_factor
from steepest.optim import SGD, AdamW, Averaged, Lion, Muon, Nesterov, Options, ScheduleFree, Signum
from tests.optim.gradients import gradient, parameters
from tests.optim.test_contract import NEEDED, OPTIMIZERS

SHAPES = [(6, 4), (5, 3), (7,)]
CASES = {
    "hyperball": Options(hyperball=True),
    "cautious": Options(cautious=True),
    "cautious decay": Options(decay="cautious"),
    "clip": Options(clip=0.3),
    "l2": Options(decay="l2"),
    "skip": Options(nonfinite="skip"),
}
RULES = {
    "SGD": lambda p, o: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, options=o),
    "Nesterov": lambda p, o: Nesterov(p, lr=0.05, momentum=None, weight_decay=0.1, options=o),
    "AdamW": lambda p, o: AdamW(p, lr=0.05, weight_decay=0.1, options=o),
    "Lion": lambda p, o: Lion(p, lr=0.05, weight_decay=0.1, options=o),
    "Signum": lambda p, o: Signum(p, lr=0.05, weight_decay=0.1, options=o),
    "Muon": lambda p, o: Muon(
        p[:2], lr=0.05, weight_decay=0.1, polar=lambda x: polar_factor(x, method="svd"), options=o
    ),
    "ScheduleFree": lambda p, o: ScheduleFree(AdamW(p, lr=0.05, options=o), weight_decay=0.1),
}


def only_matrices(name: str) -> bool:
    """Whether an optimizer refuses vectors that come without their model."""
    try:
        getattr(optim, name)([nn.Parameter(torch.zeros(3))], **NEEDED.get(name, {}))
    except ValueError:
        return True
    return False


def every(name: str, dim: int, mesh) -> None:
    """Each optimizer with its defaults, sharded by rows (0) or columns (1)."""
    shapes = SHAPES[:2] if only_matrices(name) else SHAPES
    plain = parameters(shapes)
    sharded = [nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(dim % p.ndim)])) for p in plain]
    one, two = (getattr(optim, name)(params, **NEEDED.get(name, {}), lr=0.05) for params in (plain, sharded))
    for step in range(4):
        for index, (p, q) in enumerate(zip(plain, sharded, strict=True)):
            p.grad = gradient(tuple(p.shape), step, index)
            q.grad = distribute_tensor(p.grad, mesh, [Shard(dim % p.ndim)])
        one.step()
        two.step()
    for p, q in zip(plain, sharded, strict=True):
        torch.testing.assert_close(q.full_tensor(), p, rtol=1e-9, atol=1e-11, msg=lambda m: f"{name}, dim {dim}: {m}")


def compare(name: str, case: str, mesh) -> None:
    plain = parameters(SHAPES)
    sharded = [nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
    one, two = RULES[name](plain, CASES[case]), RULES[name](sharded, CASES[case])
    averages = Averaged(plain), Averaged(sharded)
    for step in range(4):
        for index, (p, q) in enumerate(zip(plain, sharded, strict=True)):
            grad = gradient(tuple(p.shape), step, index)
            if case == "skip" and step == 2 and index == 0:
                grad[0, 0] = torch.inf  # in the shard of the first process alone
            p.grad, q.grad = grad, distribute_tensor(grad, mesh, [Shard(0)])
        one.step()
        two.step()
        for average in averages:
            average.update()
    for p, q in zip(plain, sharded, strict=True):
        torch.testing.assert_close(q.full_tensor(), p, rtol=1e-10, atol=1e-12, msg=lambda m: f"{name}, {case}: {m}")
    with averages[0].swapped(), averages[1].swapped():
        for p, q in zip(plain, sharded, strict=True):
            torch.testing.assert_close(q.full_tensor(), p, rtol=1e-10, atol=1e-12)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for name in OPTIMIZERS:
        for dim in (0, 1):
            every(name, dim, mesh)
    for name in RULES:
        for case in CASES:
            compare(name, case, mesh)
    dist.destroy_process_group()
    sys.stdout.write("all equal\n")


if __name__ == "__main__":
    with leaving_at_once():
        sys.exit(main())

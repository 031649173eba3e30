# SPDX-License-Identifier: Apache-2.0
"""How far SOAP and Shampoo are from pytorch-optimizer's after 20 steps, and why.

Run `python -m benchmarks.optim.soap_equality` from the repository's root, with `pytorch-optimizer` installed.
"""

import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytorch_optimizer  # pyright: ignore[reportMissingImports]
import torch

from benchmarks.kernels.timing import RESULTS, machine
from steepest.optim import SOAP, Shampoo

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def distance(shape: tuple[int, int], dtype: torch.dtype, ours: Make, theirs: Make, *, same_basis: bool) -> float:
    """Return the difference of the weights after 20 steps, relative to the way they went."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    one, two = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    first, second = ours([one]), theirs([two])
    for step in range(21):
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        one.grad, two.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
        if same_basis and step == 0:
            state = first.state[one]
            second.state[two]["Q"] = [state["basis_left"][0].clone(), state["basis_right"][0].clone()]
    return float((one - two).detach().norm() / (one - start).detach().norm())


def rows() -> list[dict[str, Any]]:
    """Return the distances."""
    found: list[dict[str, Any]] = []
    for shape in ((32, 32), (24, 40), (40, 24)):
        for decay, same_basis in ((0.0, False), (0.0, True), (0.1, True)):
            settings: dict[str, Any] = {"lr": 0.01, "weight_decay": decay}
            value = distance(
                shape,
                torch.float32,
                lambda p, s=settings: SOAP(p, **s),
                lambda p, s=settings: pytorch_optimizer.SOAP(p, **s),
                same_basis=same_basis,
            )
            case = {"method": "SOAP", "shape": shape, "weight_decay": decay, "same_first_basis": same_basis}
            found.append({**case, "dtype": "float32", "relative_difference": value})
        for damping, eps in ((1e-6, 0.0), (1e-12, 1e-12)):
            value = distance(
                shape,
                torch.float64,
                lambda p, e=eps: Shampoo(
                    p, 0.01, (0.0, 0.0), accumulation="sum", grafting="none", eps=e, precondition_frequency=1
                ),
                lambda p, d=damping: pytorch_optimizer.Shampoo(p, lr=0.01, matrix_eps=d),
                same_basis=False,
            )
            case = {"method": "Shampoo", "shape": shape, "eps": eps, "their_matrix_eps": damping}
            found.append({**case, "dtype": "float64", "relative_difference": value})
    return found


def main() -> None:
    """Compare, print and save."""
    torch.set_num_threads(1)
    about = machine()
    about["versions"]["pytorch-optimizer"] = metadata.version("pytorch-optimizer")
    result = {"about": about, "rows": rows()}
    for row in result["rows"]:
        print(row)
    path = RESULTS / f"optim_soap_equality_{about['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The same function by other people's software, where that is installed: torch.compile, onnxruntime, jax."""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Let this thread, and threads that it starts, run on `count` processors only: no peer gets more than it says.

    Args:
        count: At least 1. Where the system cannot do this, nothing happens.

    Yields:
        Nothing.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def has_compiler() -> bool:
    """Return whether torch.compile finds a C++ compiler.

    Returns:
        Whether one of the usual names is on the path.
    """
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))


def installed(package: str) -> bool:
    """Return whether a package can be imported.

    Args:
        package: Its import name.

    Returns:
        Whether it is there; it is not imported.
    """
    return importlib.util.find_spec(package) is not None


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function compiled by inductor, from a clean state.

    Args:
        function: Plain torch.

    Returns:
        The compiled function; the first call compiles.
    """
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True)


def onnx(operator: str, x: Tensor, **attributes: int | str) -> Call | None:
    """Return a call of one ONNX operator in onnxruntime on float32 x.

    Args:
        operator: Its name in ONNX.
        x: The input.
        **attributes: Of the operator.

    Returns:
        The call, which allocates its output; None where onnx or onnxruntime is not installed.
    """
    if not (installed("onnx") and installed("onnxruntime")) or x.dtype is not torch.float32:
        return None
    session = _session(operator, tuple(x.shape), torch.get_num_threads(), tuple(sorted(attributes.items())))
    inputs = {"x": x.numpy()}
    return lambda: session.run(None, inputs)


@functools.lru_cache(maxsize=8)
def _session(operator: str, shape: tuple[int, ...], threads: int, attributes: tuple[tuple[str, int | str], ...]) -> Any:
    helper: Any = importlib.import_module("onnx.helper")
    runtime: Any = importlib.import_module("onnxruntime")
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], **dict(attributes))
    graph = helper.make_graph([node], operator, [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def jax(name: str, *inputs: Tensor) -> Call | None:
    """Return a jitted call of a function of `jax.numpy`, `jax.nn` or `jax.lax`.

    Args:
        name: Such as "nn.softmax".
        *inputs: float32.

    Returns:
        The call, which waits for its result; None where jax is not installed.
    """
    if not installed("jax") or inputs[0].dtype is not torch.float32:
        return None
    module: Any = importlib.import_module("jax")
    package, _, function = name.partition(".")
    jitted = module.jit(getattr(importlib.import_module(f"jax.{package}"), function))
    arrays = [module.numpy.asarray(x.numpy()) for x in inputs]
    return lambda: jitted(*arrays).block_until_ready()


def alternatives(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: tuple[Tensor, ...], *, compile_too: bool
) -> dict[str, Call]:
    """Return calls of our function, of torch's, and of torch's compiled.

    Args:
        ours: The library's function.
        plain: The same in torch.
        inputs: For both.
        compile_too: Whether to compile; it takes seconds.

    Returns:
        Name to call.
    """
    found: dict[str, Call] = {"steepest": lambda: ours(*inputs), "torch": lambda: plain(*inputs)}
    if compile_too and has_compiler():
        fast = compiled(plain)
        found["torch.compile"] = lambda: fast(*inputs)
    return found


def steps(calls: Mapping[str, Call], inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    """Return calls that run forward and backward, with a gradient of ones to each result.

    Args:
        calls: Name to a call that returns a tensor with a graph.
        inputs: Those whose gradients are taken.

    Returns:
        Name to call.
    """

    def step(call: Call) -> Call:
        def run() -> Any:
            y = call()
            return torch.autograd.grad(y, inputs, torch.ones_like(y))

        return run

    return {name: step(call) for name, call in calls.items()}

# SPDX-License-Identifier: Apache-2.0
"""How a model uses its parameters, read off the autograd graph of one forward pass."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# Operations that hand a parameter on unchanged, in another layout or in part.
_CARRIERS = (
    "T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Reshape", "Expand", "Unsqueeze", "Squeeze",
    "Slice", "Select", "Split", "SplitWithSizes", "Chunk", "Unbind", "Cat", "Stack", "Clone", "ToCopy", "Alias",
    "AsStrided", "Narrow",
)  # fmt: skip
# Matrix products, with the index of the left operand.
_PRODUCTS = {"Mm": 0, "Bmm": 0, "Mv": 0, "GroupedMm": 0, "Addmm": 1, "Baddbmm": 1, "Addbmm": 1, "Addmv": 1}
_ENTRYWISE = {
    "Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Pow", "Exp", "Expm1", "Log", "Sqrt", "Rsqrt", "Abs", "Sigmoid", "Tanh",
    "Softplus", "LogSigmoid", "Relu", "Silu", "Gelu", "Softmax", "LogSoftmax", "Cat", "Where", "Lerp", "Addcmul", "Sum",
    "Mean", "Clamp", "Maximum", "Minimum", "Repeat", "Cumsum", "Sin", "Cos",
}  # fmt: skip
_LOOKUPS = ("Embedding", "EmbeddingBag", "Index", "IndexSelect", "Gather")
_BIAS_ADDITIONS = ("Add", "Sub")


@final
@dataclass
class Use:
    """What one forward pass did with a parameter.

    Args:
        kinds: "product", "lookup", "convolution", "entrywise" and "unknown", as far as they occurred.
        transposed: Products read it as (in, out) (True) or as (out, in) (False); None when that could not be told.
        last: Nothing with parameters consumed what was made with it.
        groups: Groups of its convolution.
    """

    kinds: set[str] = field(default_factory=set)
    transposed: bool | None = None
    last: bool = False
    groups: int = 1


def observe_use(model: nn.Module, example_inputs: Any) -> dict[int, Use]:
    """Run the model once and return how each parameter was used.

    The pass runs on the meta device, where it costs nothing, and for real where an operation needs numbers. Weights,
    buffers, gradients, modes and the global random state stay as they are.

    Args:
        model: Any module.
        example_inputs: A tuple of positional arguments, a mapping of keyword arguments, or the only argument.

    Returns:
        By `id(parameter)`; a parameter that the outputs do not depend on is missing.

    Raises:
        ValueError: If a model on the meta device needs numbers, or no output is a tensor with a gradient.
    """
    args, kwargs = _call(example_inputs)
    real = not any(p.is_meta for p in model.parameters())
    with _evaluation(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            outputs, originals = _run(model, args, kwargs, meta=True)
        except Exception as error:  # what an operation without meta support raises is its own choice
            if not real:
                raise ValueError(f"example_inputs: the model cannot run on the meta device ({error})") from error
            outputs, originals = _run(model, args, kwargs, meta=False)
    roots = [t.grad_fn for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor) and t.grad_fn is not None]
    if not roots:
        raise ValueError("example_inputs: expected a tensor with a gradient among the model's outputs, found none")
    return {originals[key]: use for key, use in _Graph(roots).uses().items() if key in originals}


def _call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which a batch of one passes batch normalization; each module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, meta: bool) -> tuple[Any, dict[int, int]]:
    """Outputs with stand-ins for the parameters, and from the stand-ins' ids to the parameters'."""

    def stand_in(tensor: Any) -> Any:
        return tensor.detach().to("meta") if isinstance(tensor, Tensor) and meta else tensor

    copies, originals = {}, {}
    for name, parameter in model.named_parameters():
        copy = stand_in(parameter.detach())
        copies[name] = copy.requires_grad_() if copy.is_floating_point() or copy.is_complex() else copy
        originals[id(copies[name])] = id(parameter)
    for name, buffer in model.named_buffers():
        copies[name] = stand_in(buffer) if meta else buffer.clone()
    args, kwargs = pytree.tree_map(stand_in, (args, kwargs))
    # The stand-ins live as long as the graph of the outputs holds them, so their ids are not given away.
    outputs = torch.func.functional_call(model, copies, args, kwargs)
    return (outputs, copies), originals


def _operation(node: Any) -> str:
    return node.name().rpartition("::")[2].partition("Backward")[0]


class _Graph:
    """The autograd graph behind some outputs."""

    def __init__(self, roots: list[Any]) -> None:
        self.nodes = _reachable(roots)
        self._behind: dict[Any, list[tuple[Tensor, int | None]]] = {}

    def uses(self) -> dict[int, Use]:
        """Use of each leaf, by its id."""
        found: dict[int, Use] = {}
        consumers = [(node, self._operands(node)) for node in self.nodes if not self.parameters_behind(node)]
        starts = [child for node, own in consumers if self._computes(node, own) for child in self._inputs(node)]
        consumed = set(_reachable(starts))
        for node, own in consumers:
            for index, parameter, turns in own:
                use = found.setdefault(id(parameter), Use())
                if _operation(node) == "Convolution" and index == 1:
                    use.groups, use.transposed = node._saved_groups, node._saved_transposed
                _record(use, _operation(node), index, turns, parameter.ndim)
                use.last |= node not in consumed
        return found

    def parameters_behind(self, node: Any) -> list[tuple[Tensor, int | None]]:
        """Parameters that this node only hands on, each with its transpositions (None: cannot be told)."""
        if node not in self._behind:
            self._behind[node] = self._hand_on(node)
        return self._behind[node]

    def _hand_on(self, node: Any) -> list[tuple[Tensor, int | None]]:
        if hasattr(node, "variable"):
            return [(node.variable, 0)]
        operation = _operation(node)
        children = [child for child, _ in node.next_functions if child is not None]
        sources = [self.parameters_behind(child) for child in children] if operation in _CARRIERS else []
        if not all(sources):
            return []
        return [(leaf, _turned(node, operation, turns)) for source in sources for leaf, turns in source]

    def _operands(self, node: Any) -> list[tuple[int, Tensor, int | None]]:
        children = [(index, child) for index, (child, _) in enumerate(node.next_functions) if child is not None]
        return [(index, leaf, turns) for index, child in children for leaf, turns in self.parameters_behind(child)]

    def _inputs(self, node: Any) -> list[Any]:
        return [c for c, _ in node.next_functions if c is not None and not self.parameters_behind(c)]

    def _computes(self, node: Any, own: list[tuple[int, Tensor, int | None]]) -> bool:
        """Whether the node is more than the addition of a bias or a multiplication with one number."""
        floor = 2 if _operation(node) in _BIAS_ADDITIONS else 1
        return any(leaf.ndim >= floor for _, leaf, _ in own)


def _turned(node: Any, operation: str, turns: int | None) -> int | None:
    """Transpositions after one more operation on the way."""
    if operation in ("Unsqueeze", "Stack") or turns is None:
        return None  # an einsum is on its way
    if operation == "Permute":
        dims = node._saved_dims
        order = [(dim - 2**64 if dim >= 2**63 else dim) % len(dims) for dim in dims]  # saved as unsigned numbers
        *outer, first, second = order
        if outer != list(range(len(outer))):
            return None
        return turns + (first > second)
    return turns + (operation in ("T", "Transpose"))


def _record(use: Use, operation: str, index: int, turns: int | None, ndim: int) -> None:
    if operation in _PRODUCTS and index >= _PRODUCTS[operation]:
        use.kinds.add("product")
        if turns is not None:
            is_left = index == _PRODUCTS[operation]
            use.transposed = turns % 2 == 1 if is_left else turns % 2 == 0
    elif operation in _LOOKUPS and index == 0 and ndim == 2:
        use.kinds.add("lookup")
    elif operation == "Convolution":
        use.kinds.add("convolution")
    elif operation in _ENTRYWISE or operation in _PRODUCTS:  # in a product only the addend is left here
        use.kinds.add("entrywise")
    else:
        use.kinds.add("unknown")


def _reachable(roots: list[Any]) -> list[Any]:
    seen, waiting = dict.fromkeys(roots), list(roots)
    while waiting:
        for child, _ in waiting.pop().next_functions:
            if child is not None and child not in seen:
                seen[child] = None
                waiting.append(child)
    return list(seen)

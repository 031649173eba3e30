# SPDX-License-Identifier: Apache-2.0
"""A short look at a model: seconds and bytes of a block and of what is around the blocks, measured on two blocks."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from steepest.nn.decoder import Decoder
from steepest.nn.decoder_config import DecoderConfig
from steepest.train.offload.activations import ActivationStore, Place, place_activations
from steepest.train.offload.allocations import Allocations

#: From this length on attention keeps no scores (see `steepest.nn.attention`), so bytes grow with the tokens alone.
_SHORTEST = 576
_BYTES = ("start", "keep", "recompute", "swap", "swapped", "forward_most", "head_most", "backward_most")


@final
@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """One round (forward and backward pass) of a model, by block and by what is around the blocks.

    Args:
        forward: Seconds of a block.
        backward: Seconds of a block.
        ends_forward: Seconds of embedding, head and loss.
        ends_backward: Seconds of the same.
        start: Bytes made before the first block and held.
        keep: Bytes that a block holds until its backward pass.
        recompute: The same if it is computed again.
        swap: The same if its activations go to the disk.
        swapped: Bytes of a block that go there.
        forward_most: Most bytes of a block's forward pass.
        head_most: Most bytes of head and loss.
        backward_most: Most bytes of a block's backward pass, gradients of parameters left out.
        exact: Whether the whole round was run; else it was scaled from a smaller one.
    """

    forward: float
    backward: float
    ends_forward: float
    ends_backward: float
    start: int
    keep: int
    recompute: int
    swap: int
    swapped: int
    forward_most: int
    head_most: int
    backward_most: int
    exact: bool = True


def two_blocks(config: DecoderConfig) -> Decoder:
    """Return a model of a shape with two blocks, whose loss depends on all of its weights.

    Args:
        config: The shape.
    """
    generator = torch.Generator().manual_seed(0)
    model = dataclasses.replace(config, layers=2).build(generator)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.02, generator=generator)
    return model


def profile_model(
    model: Decoder, sequences: int, folder: Path | None, *, bfloat16: bool, budget: float = 1e11
) -> ModelProfile:
    """Measure a round of a model.

    Args:
        model: Two blocks of it, from `two_blocks`.
        sequences: Of a round, each as long as the context.
        folder: For activations on the disk; None where nothing goes there.
        bfloat16: Compute in bfloat16 (autocast).
        budget: Operations that one pass may take; a larger round is scaled from fewer and shorter sequences.

    Returns:
        What the whole round takes.
    """
    context = model.config.context
    _Round(model, 1, 16, bfloat16).seconds()  # compiles kernels
    affordable = budget / (model.flops_per_token(context) * context)
    if sequences <= affordable:
        return _measured(_Round(model, sequences, context, bfloat16), folder)
    if affordable >= 2:
        few = max(1, int(affordable) // 2)
        shapes = [(few, context), (2 * few, context)]
    else:
        length = min(context, _SHORTEST)
        shapes = [(1, length), (2, length)]
    less, more = (_measured(_Round(model, n, length, bfloat16), folder) for n, length in shapes)
    return _scaled(model, shapes, less, more, (sequences, context))


def _scaled(
    model: Decoder, shapes: list[tuple[int, int]], less: ModelProfile, more: ModelProfile, whole: tuple[int, int]
) -> ModelProfile:
    """Bytes grow with the tokens from a fixed part on; seconds with the operations."""
    (n1, t1), (n2, t2) = shapes
    small, large, tokens = n1 * t1, n2 * t2, whole[0] * whole[1]
    found: dict[str, Any] = {}
    for name in _BYTES:
        a, b = getattr(less, name), getattr(more, name)
        found[name] = max(0, round(b + (b - a) * (tokens - large) / (large - small)))
    factor = tokens / large
    longer = model.flops_per_token(whole[1]) / model.flops_per_token(t2)
    for name in ("forward", "backward"):
        found[name] = getattr(more, name) * factor * longer
        found[f"ends_{name}"] = getattr(more, f"ends_{name}") * factor
    return ModelProfile(**found, exact=False)


def _measured(one: "_Round", folder: Path | None) -> ModelProfile:
    forward, backward, ends_forward, ends_backward = sorted((one.seconds() for _ in range(3)), key=sum)[1]
    bytes_: dict[str, Any] = {}
    places: tuple[Place, ...] = ("keep", "recompute", "swap") if folder else ("keep", "recompute")
    for place in places:
        bytes_ |= one.bytes(place, folder, bytes_)
    if not folder:
        bytes_ |= {"swap": 0, "swapped": 0}
    return ModelProfile(
        forward=forward, backward=backward, ends_forward=ends_forward, ends_backward=ends_backward, **bytes_
    )


class _Round:
    """Runs a model of two blocks."""

    def __init__(self, model: Decoder, sequences: int, length: int, bfloat16: bool) -> None:
        self._model, self._bfloat16 = model, bfloat16
        shape, vocabulary = (sequences, length), model.config.vocab_size
        self._ids, self._targets = (
            torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
        )
        self._blocks = list(model.model.get_submodule("layers").children())

    def seconds(self) -> tuple[float, float, float, float]:
        """Return the seconds of a block's forward and backward pass, and of the rest's."""
        when: dict[str, float] = {}
        self._forget()
        self._run(lambda name: when.update({name: time.perf_counter()}))
        forward = (when["out 1"] - when["in 0"]) / 2
        backward = (when["into 0"] - when["back 1"]) / 2
        whole_forward, whole_backward = when["loss"] - when["start"], when["end"] - when["loss"]
        return forward, backward, max(0.0, whole_forward - 2 * forward), max(0.0, whole_backward - 2 * backward)

    def bytes(self, place: Place, folder: Path | None, before: dict[str, int]) -> dict[str, int]:
        """Return the bytes of a place for activations, and the largest of what places have in common."""
        found: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(ActivationStore(folder)) if folder and place == "swap" else None
            for block in self._blocks:
                stack.callback(place_activations(block, place, store))
            most = 0

            def mark(name: str) -> None:
                nonlocal most
                if name == "loss" and store is not None:
                    most = store.in_use
                tracker.mark(name)

            self._forget()
            with Allocations() as tracker:
                handles = [
                    p.register_post_accumulate_grad_hook(lambda p: tracker.count(-p.numel() * p.element_size()))
                    for p in self._model.parameters()
                ]
                self._run(mark)
            for handle in handles:
                handle.remove()
        found[place] = max(0, tracker.at("out 1") - tracker.at("in 1"))
        common = {
            "start": tracker.at("in 0"),
            "forward_most": tracker.most("in 1", "out 1") - tracker.at("in 1"),
            "head_most": tracker.most("out 1", "back 1") - tracker.at("out 1"),
        }
        if place == "swap":
            found["swapped"] = most // 2
        else:
            common["backward_most"] = tracker.most("back 1", "into 1") - tracker.at("in 1")
        return found | {name: max(size, before.get(name, 0)) for name, size in common.items()}

    def _forget(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None

    def _run(self, mark: Callable[[str], None]) -> None:
        """Run forward and backward pass; marks say where it is."""
        handles = [block.register_forward_pre_hook(_before(i, mark)) for i, block in enumerate(self._blocks)]
        handles += [block.register_forward_hook(_after(i, mark)) for i, block in enumerate(self._blocks)]
        mark("start")
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            loss = self._model(self._ids, targets=self._targets).mean()
        mark("loss")
        loss.backward()
        mark("end")
        for handle in handles:
            handle.remove()


def _before(index: int, mark: Callable[[str], None]) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Any, ...]) -> None:
        for tensor in _differentiated(inputs):
            tensor.register_hook(lambda _: mark(f"into {index}"))  # the last one that comes counts
        mark(f"in {index}")

    return hook


def _after(index: int, mark: Callable[[str], None]) -> Callable[..., None]:
    def hook(_: Any, __: Any, outputs: Any) -> None:
        seen: list[bool] = []

        def first(_: Tensor) -> None:
            if not seen:
                seen.append(True)
                mark(f"back {index}")

        for tensor in _differentiated(outputs if isinstance(outputs, tuple) else (outputs,)):
            tensor.register_hook(first)
        mark(f"out {index}")

    return hook


def _differentiated(values: tuple[Any, ...]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]

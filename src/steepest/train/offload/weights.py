# SPDX-License-Identifier: Apache-2.0
"""Weights of a model's blocks on the disk: in memory while their block computes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from steepest.train.offload.groups import has_post_hook
from steepest.train.offload.optimizer import Offload
from steepest.train.offload.pieces import SMALL


@final
class WeightStream:
    r"""Keeps the weights of blocks in the store of an `Offload`, and in memory only while a block needs them.

    A block's weights are read before its forward pass and let go after it; in the backward pass they are read again,
    the block is computed again (its activations do not outlive its forward pass), and each weight is let go when its
    gradient has come. The next block is read while one computes. Steps begin with the weights that the disk has.
    A model of $N$ parameters in $L$ blocks then needs about $8N/L$ bytes for them, in place of $4N$.

    Args:
        offload: Holds the optimizer of the model.
        model: All of it: a weight that is used outside of its block must stay in memory.
        blocks: Modules of the model that are called one after another, in this order. Their parameters of more than
            16,384 entries go, if the optimizer has them and they are trained; the others stay.

    Raises:
        TypeError: If `offload` is none.
        ValueError: If it streams already, holds shards of several processes, its optimizer has a post-hook that may
            change weights, or a weight cannot go: it is not contiguous, or is used in several places.
        OSError: If the disk refuses.

    Numerics:
        Weights, states and gradients are those without it, bit for bit.

    Example:
        >>> import tempfile
        >>> from steepest.optim import AdamW
        >>> model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(3)))
        >>> optimizer = AdamW(model, lr=1e-3)
        >>> with tempfile.TemporaryDirectory() as folder, Offload(optimizer, folder) as offload:
        ...     with WeightStream(offload, model, model.children()) as stream:
        ...         model(torch.ones(2, 256)).square().mean().backward()
        ...         optimizer.step()
        ...         print(stream.nbytes, "bytes on the disk,", stream.in_memory, "in memory")
        786432 bytes on the disk, 0 in memory

    References:
        Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857, sections 5.1 and 6.
    """

    def __init__(self, offload: Offload, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        if not isinstance(offload, Offload):
            raise TypeError(f"expected an Offload, got {type(offload).__name__}")
        if offload.stream is not None:
            raise ValueError("this Offload streams weights already; close its WeightStream first")
        if has_post_hook(offload.optimizer):
            raise ValueError(
                "a step post-hook, such as of keep_on_manifolds, changes weights that are on the disk then"
            )
        if offload.ranks.sharded:
            raise ValueError("weights of several processes stay in memory: FSDP2 gathers them")
        self._offload, self._blocks = offload, list(blocks)
        mine = {param for group in offload.optimizer.param_groups for param in group["params"]}
        self._weights = [
            [p for p in block.parameters() if p in mine and p.requires_grad and p.numel() > SMALL]
            for block in self._blocks
        ]
        _check(model, self._weights)
        self._of: dict[Tensor, int] = {param: index for index, weights in enumerate(self._weights) for param in weights}
        self._ahead: list[Future[None] | None] = [None] * len(self._blocks)
        self._reader = ThreadPoolExecutor(1, "weights")
        self._forward = False
        self._handles = [param.register_post_accumulate_grad_hook(self._used) for param in self._of]
        self._undo = [self._wrap(index, block) for index, block in enumerate(self._blocks)]
        for param in self._of:
            storage = param.untyped_storage()
            if not storage.resizable() or storage.nbytes() != _bytes(param):  # of a mapped file, or a part of something
                param.data = torch.empty_like(param)
            _free(param)
        self._mark(away=True)
        offload.stream = self

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are on the disk."""
        return sum(_bytes(param) for param in self._of)

    @property
    def in_memory(self) -> int:
        """Bytes of them that are in memory now, too."""
        return sum(param.untyped_storage().nbytes() for param in self._of)

    def _mark(self, *, away: bool) -> None:
        for param in self._of:
            for part in self._offload.gradients.parts_of(param):
                part.away = away

    def _wrap(self, index: int, block: nn.Module) -> Callable[[], object]:
        before = block.__dict__.pop("forward", None)
        forward = block.forward

        def with_weights(*args: Any, **kwargs: Any) -> Any:
            self._bring(index)
            self._read_ahead(index)
            return forward(*args, **kwargs)

        def streamed(*args: Any, **kwargs: Any) -> Any:
            # A backward pass calls `with_weights` by itself; gradients then say when weights are not needed any more.
            self._forward = True
            try:
                if torch.is_grad_enabled():
                    return checkpoint(with_weights, *args, use_reentrant=False, **kwargs)
                return with_weights(*args, **kwargs)
            finally:
                self._forward = False
                self._let_go(index)

        block.forward = streamed
        return lambda: block.__dict__.update(forward=before) if before else block.__dict__.pop("forward", None)

    def _read_ahead(self, index: int) -> None:
        following = index + 1 if self._forward else index - 1
        if 0 <= following < len(self._blocks):
            self._begin_to_read(following)

    def _begin_to_read(self, index: int) -> None:
        if self._ahead[index] is None:
            self._ahead[index] = self._reader.submit(self._read, index)

    def _read(self, index: int) -> None:
        for param in self._weights[index]:
            if not param.untyped_storage().nbytes():
                param.untyped_storage().resize_(_bytes(param))
                self._offload.states.bring_weights(param)

    def _bring(self, index: int) -> None:
        self._begin_to_read(index)
        future = self._ahead[index]
        assert future is not None
        try:
            future.result()
        except BaseException:
            self._let_go(index)
            raise

    def _let_go(self, index: int) -> None:
        future, self._ahead[index] = self._ahead[index], None
        if future is not None:
            future.exception()  # waits; who needs the weights has seen it
        for param in self._weights[index]:
            _free(param)

    def _used(self, param: Tensor) -> None:
        index = self._of[param]
        future = self._ahead[index]
        if future is not None and future.done():
            self._ahead[index] = None
        _free(param)

    def let_go(self) -> None:
        """Let all weights go that are in memory; after a step none are needed."""
        for index in range(len(self._blocks)):
            self._let_go(index)

    def stepped(self) -> None:
        """Let all weights go, which are others now: graphs from before the step are of no use."""
        self.let_go()
        torch.autograd.graph.increment_version(list(self._of))

    @contextlib.contextmanager
    def all_in_memory(self) -> Iterator[None]:
        """All weights are there meanwhile, to be read; changes are lost.

        Raises:
            OSError: If the disk refuses or a tile is damaged.
        """
        try:
            for index in range(len(self._blocks)):
                self._bring(index)
            yield
        finally:
            self.let_go()

    def close(self) -> None:
        """Bring all weights back to memory, to stay.

        Raises:
            OSError: If the disk refuses or a tile is damaged.
        """
        if self._offload.stream is not self:
            return
        try:
            for index in range(len(self._blocks)):
                self._bring(index)
        finally:
            for undo in self._undo:
                undo()
            for handle in self._handles:
                handle.remove()
            self._mark(away=False)
            self._reader.shutdown()
            self._offload.stream = None

    def __enter__(self) -> "WeightStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check(model: nn.Module, weights: list[list[nn.Parameter]]) -> None:
    places: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        places.setdefault(param.data_ptr(), []).append(name)
    seen: set[Tensor] = set()
    for param in (param for block in weights for param in block):
        names = places.get(param.data_ptr(), [])
        if not names:
            raise ValueError(
                "a block has parameters that the model does not have; give the model that holds the blocks"
            )
        if len(names) > 1 or param in seen:
            raise ValueError(f"{' and '.join(names)} are one weight; leave the blocks that hold it in memory")
        seen.add(param)
        if not param.is_contiguous():
            raise ValueError(f"{names[0]} has gaps in its memory or another order; make it with .contiguous()")


def _bytes(param: Tensor) -> int:
    return param.numel() * param.element_size()


def _free(param: Tensor) -> None:
    param.untyped_storage().resize_(0)

# SPDX-License-Identifier: Apache-2.0
"""An optimizer whose states are on a disk."""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from steepest.optim.engine import Engine
from steepest.train.offload import opening
from steepest.train.offload.buffers import BufferPool
from steepest.train.offload.gradients import Gradients
from steepest.train.offload.groups import Groups, has_post_hook, that_share_versions
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.pieces import Piece, cut
from steepest.train.offload.pipeline import Pipeline
from steepest.train.offload.ranks import Ranks
from steepest.train.offload.states import States
from steepest.train.offload.step_job import StepJob

if TYPE_CHECKING:
    from steepest.train.offload.weights import WeightStream


@final
class Offload:
    r"""Moves the states of an optimizer to a disk; its `step()` takes the same steps, bit for bit.

    States and parameters are read, stepped and written in pieces, each stage in a thread of its own. What a step writes
    goes beside what the last one wrote and becomes valid all at once at its end, so a process that is killed at any
    moment finds the last whole step again (`resume`), and a step that fails (a full disk, a damaged tile, a gradient
    that is not finite where the options say `"skip"` or `"raise"`) leaves weights and states as they were.

    With `OffloadOptions(overlap=True)` each parameter is stepped while the backward pass still computes the gradients
    of others, and its gradient is freed. All backward passes of an accumulation but the last one then belong into
    `accumulating()`.

    Args:
        optimizer: Any optimizer of `steepest.optim` that has not stepped, or has and then brings its states along.
            Weights are on the CPU.
        folder: For the store; made if it is missing.
        options: How.
        resume: Continue from what is in the folder: weights, states and the numbers of the groups.
        overwrite: Begin anew in a folder that holds steps of an earlier run.

    Raises:
        TypeError: If `optimizer` is none of ours.
        ValueError: If a group cannot be stepped in pieces, or the folder holds something else than `resume` expects.
            A backward pass raises it with `overlap` where parameters are views of one tensor.
        OSError: If the disk refuses or is too small.

    Numerics:
        Weights and states are those of the optimizer in memory with the same number of threads. What step post-hooks
        (such as of `keep_on_manifolds`) make of the weights is written after them: all weights once more.

    Example:
        >>> import tempfile, torch
        >>> from steepest.optim import AdamW
        >>> layer = torch.nn.Linear(4, 4)
        >>> optimizer = AdamW(layer, lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder, Offload(optimizer, folder) as offload:
        ...     for _ in range(3):
        ...         layer(torch.ones(2, 4)).square().sum().backward()
        ...         optimizer.step()
        ...     print(offload.steps)
        3

    References:
        Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857. Liao et al. (2024), Fuyou, arXiv 2403.06504.
    """

    def __init__(
        self,
        optimizer: Engine,
        folder: str | Path,
        options: OffloadOptions | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if not isinstance(optimizer, Engine):
            raise TypeError(f"expected an optimizer of steepest.optim, got {type(optimizer).__name__}")
        if optimizer.elsewhere is not None:
            raise ValueError("the states of this optimizer are on a disk already")
        self.optimizer, self.options = optimizer, options or OffloadOptions()
        self.note: dict[str, Any] = {}
        self.pieces = cut(optimizer, self.options.tile_entries, master=self.options.master)
        self.groups = Groups(optimizer, self.options)
        self.stream: WeightStream | None = None
        self.ranks = Ranks(param for group in optimizer.param_groups for param in group["params"])
        self.folder, direct = Path(folder), self.options.direct
        self.store = opening.make_store(self.folder, self.ranks, direct=direct, overwrite=overwrite)
        try:
            self.pool = BufferPool(self.options.buffer_bytes)
            self.states = States(optimizer, self.store, self.pool, self.pieces, self.ranks)
            self.gradients = opening.go_on(self) if resume else opening.begin(self, overwrite=overwrite)
        except BaseException:
            self.store.close()
            self.ranks.close()
            raise
        meet = self.ranks.all_go_on if self.ranks.sharded else None
        self.pipeline = Pipeline(threads=self.options.threads, serial=self.options.serial, meet=meet)
        self._submitted: list[Piece] = []
        self._waiting = {piece: len(piece.parts) for piece in self.pieces}
        self._of = self._pieces_by_parameter()
        self._one_version = that_share_versions(self._of) if self.options.overlap else set[Tensor]()
        self._accumulating = False
        self._bad: list[tuple[str, str]] = []
        self._uncommitted: int | None = None
        self._norm: Tensor | None = None
        self.coefficient: Tensor | None = None
        self._handles = self._install()
        optimizer.elsewhere = self

    def make_gradients(self) -> Gradients:
        """Plan where gradients go."""
        return Gradients(self.store, self.pool, self.pieces, on_disk=self.options.gradients == "disk")

    def _pieces_by_parameter(self) -> dict[Tensor, list[Piece]]:
        found: dict[Tensor, list[Piece]] = {}
        for piece in self.pieces:
            for part in piece.parts:
                found.setdefault(part.param, []).append(piece)
        return found

    def _install(self) -> list[Any]:
        handles: list[Any] = [
            self.optimizer.register_state_dict_pre_hook(lambda _: self.states.bring_all()),
            self.optimizer.register_state_dict_post_hook(lambda *_: self.states.drop_all()),
            register_optimizer_step_post_hook(functools.partial(_settle, weakref.ref(self))),
        ]
        if self.options.overlap or self.options.gradients == "disk":
            for group in self.optimizer.param_groups:
                arrived = functools.partial(self._arrived, group)
                handles += [param.register_post_accumulate_grad_hook(arrived) for param in group["params"]]
        return handles

    @property
    def steps(self) -> int:
        """Steps whose results are safe on the disk; continued runs go on counting."""
        return self.store.step

    @contextlib.contextmanager
    def accumulating(self) -> Iterator[None]:
        """Let gradients add up: for all backward passes of a step but the last one, where `overlap` is on."""
        self._accumulating = True
        try:
            yield
        finally:
            self._accumulating = False

    def total_norm(self, params: Iterable[Tensor] | None = None) -> Tensor:
        """Return the length of the whole gradient, before it is clipped; `step()` then clips by this sum.

        Args:
            params: In the order in which to add up; None takes the order of the groups.
        """
        mine = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._norm = self.gradients.length(mine if params is None else params)
        return self._norm

    @torch.no_grad()
    def _arrived(self, group: dict[str, Any], param: Tensor) -> None:
        """The backward pass has made or added to a gradient."""
        self.settle()  # a hook has raised after the last step
        if self._accumulating and self.options.overlap:
            return
        if param in self._one_version and not self._of[param][0].parts[0].away:
            raise ValueError(
                f"{self.gradients.parts_of(param)[0].name} and another parameter are views of one tensor, and autograd "
                "takes a step of one for a change of the other; with overlap=True make them as nn.Parameter(view.data)"
            )
        grad = param.grad
        assert grad is not None
        if self.options.gradients == "disk":
            grad = self.gradients.put_away(param, self.pipeline)
        elif param in self.gradients.lengths:
            raise RuntimeError(
                "a second gradient came for a parameter that this step has moved already; put all backward passes of "
                "a step but the last one into `with offload.accumulating():`, and call step() after it"
            )
        self.gradients.measure(param, grad)
        if group["nonfinite"] != "propagate":
            self.gradients.measure_largest(param, grad)
        if self.options.overlap:
            self._step_what_is_ready(param, group)

    def _step_what_is_ready(self, param: Tensor, group: dict[str, Any]) -> None:
        self.groups.check()
        # Shards are stepped in any case: the others, whose gradients are finite, wait for this process.
        if self._left_out(group, param) and not self.ranks.sharded:
            return
        for piece in self._of[param]:
            self._waiting[piece] -= 1
            if not self._waiting[piece] and (self.ranks.sharded or not self._bad):
                self._submit(piece)

    def _left_out(self, group: dict[str, Any], param: Tensor) -> bool:
        size = self.gradients.largest.get(param)
        if size is None or torch.isfinite(size):
            return False
        self._bad.append((group["nonfinite"], self.gradients.parts_of(param)[0].name))
        return True

    def _submit(self, piece: Piece) -> None:
        self._submitted.append(piece)
        piece.before = [dict(part.state) for part in piece.parts]
        for part in piece.parts:
            self.gradients.hold(part.param)
        self.pipeline.submit(StepJob(self, piece))

    @torch.no_grad()
    def finish(self) -> None:
        """Take what is left of the step; `optimizer.step()` calls it.

        It is then safe, or, if there are post-hooks, after the last of them.

        Raises:
            OSError: If the disk refuses or a tile is damaged; weights and states are then as before the step, and
                gradients are gone.
            ValueError: If a gradient is not finite where `nonfinite="raise"`, or something was changed that must not.
        """
        self.settle()
        hooked = has_post_hook(self.optimizer)
        try:
            with self.ranks.together():
                if hooked and (self.options.master or self.stream):
                    raise ValueError(
                        "a step post-hook may change weights, but not those that are on the disk; remove it"
                    )
                self.groups.check()
                self._measure_all()
            bad = self._bad_gradients()
            if not bad:
                self._set_coefficient()
                done = set(self._submitted)
                for piece in self.pieces:
                    if piece not in done and any(self.gradients.has(part.param) for part in piece.parts):
                        self._submit(piece)
                with self.ranks.together():
                    self.pipeline.drain()
                    if self.ranks.sharded:  # so that little is left that can fail in one process alone
                        self.store.flush()
                if not hooked:
                    self.commit(self.store.step + 1)
                if self.stream:
                    self.stream.stepped()
        except BaseException:
            self.rollback()
            raise
        if bad:
            self.rollback()
            for mode, name in bad:
                if mode == "raise":
                    raise ValueError(
                        f"the gradient of {name} is not finite; lower lr, or choose nonfinite='skip' to leave such "
                        "steps out"
                    )
            self.optimizer.skipped += 1
        if hooked:
            self._uncommitted = self.store.step + (not bad)
        else:
            self._begin()

    @torch.no_grad()
    def settle(self) -> None:
        """Make a step safe with the weights that its post-hooks have made; called behind all of them.

        Raises:
            OSError: If the disk refuses; weights and states are then as before the step.
        """
        if self._uncommitted is None:
            return
        step, self._uncommitted = self._uncommitted, None
        try:
            with self.ranks.together():
                self.states.write_weights()
                if self.ranks.sharded:
                    self.store.flush()
            self.commit(step)
        except BaseException:
            self.rollback()
            raise
        self._begin()

    def _bad_gradients(self) -> list[tuple[str, str]]:
        """What is to happen because of gradients that are not finite in some process, and their parameters' names."""
        if all(group["nonfinite"] == "propagate" for group in self.optimizer.param_groups):
            return []
        return [entry for found in self.ranks.agree(self._bad) for entry in found]

    def commit(self, step: int) -> None:
        """Make valid what was written: in all processes or in none.

        A process that dies in between leaves the others one commit ahead, which `opening.go_on` takes back; none of
        them writes on before all have committed.

        Raises:
            OSError: If the disk of a process refuses.
        """
        done = False
        try:
            with self.ranks.together():
                self.store.commit(step, self.states.note(self.note))
                done = True
        except BaseException:
            if done:
                self.store.undo()
            raise

    def _measure_all(self) -> None:
        """Look at gradients that were given without a backward pass, or all of them where no hook has."""
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None and param not in self.gradients.lengths:
                    self._measure(param, param.grad, group)
                self._left_out(group, param)
        if self.options.gradients == "disk":
            self.pipeline.drain()

    def _measure(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if grad.layout is not torch.strided:
            raise ValueError(f"expected dense gradients, got {grad.layout}; make the embedding with sparse=False")
        if self.options.gradients == "disk":
            grad = self.gradients.put_away(param, self.pipeline)
            self.gradients.measure(param, grad)
        if group["nonfinite"] != "propagate":
            self.gradients.measure_largest(param, grad)

    def _set_coefficient(self) -> None:
        limit = self.options.max_norm
        if limit != math.inf:
            # As torch.nn.utils.clip_grads_with_norm_ computes it.
            norm = self.total_norm() if self._norm is None else self._norm
            self.coefficient = torch.clamp(limit / (norm + 1e-6), max=1.0)

    @torch.no_grad()
    def rollback(self) -> None:
        """Take the step back that is going on: weights and states are as after the last one, gradients are gone.

        Raises:
            OSError: If a weight cannot be read back.
        """
        with contextlib.suppress(Exception):  # the caller knows of it
            self.pipeline.drain()
        self.store.rollback()
        for piece in self._submitted:
            for part, before in zip(piece.parts, piece.before, strict=True):
                part.state.clear()
                part.state.update(before)
        if self.stream:
            self.stream.let_go()
        self.states.restore_weights(self._submitted)
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                param.grad = None
        self._begin()

    def _begin(self) -> None:
        self.gradients.forget()
        self._submitted.clear()
        self._waiting = {piece: len(piece.parts) for piece in self.pieces}
        self.groups.begin()
        self._bad.clear()
        self._uncommitted = None
        self._norm = None
        self.coefficient = None

    def loaded(self) -> None:
        """Take over the states that `load_state_dict` put into the optimizer, and the weights of the model."""
        self._take(self.states.take_over)

    def replace_states(self, state_of: Callable[[Tensor], Mapping[str, Any]]) -> None:
        """Take other states, one parameter at a time, and the weights of the model.

        Args:
            state_of: The state of a parameter as an optimizer in memory has it; empty if it has not stepped.

        Raises:
            ValueError: If a state has another shape.
        """
        self._take(lambda: self.states.take(state_of))

    def _take(self, take: Callable[[], None]) -> None:
        if self.stream:
            raise RuntimeError("weights are on the disk; close the WeightStream, load states and weights, make it anew")
        take()
        self.commit(self.store.step)

    def remove(self) -> None:
        """Close, and remove the files."""
        self.close()
        self.store.remove()
        with contextlib.suppress(OSError):  # another process still has files in it, or it is gone
            self.folder.rmdir()

    def close(self) -> None:
        """End the threads and close the files; the optimizer steps no more."""
        if self.optimizer.elsewhere is not self:
            return  # it is closed
        try:
            if self.stream:
                self.stream.close()
        finally:
            for handle in self._handles:
                handle.remove()
            self.pipeline.close()
            self.store.close()
            self.ranks.close()
            self.optimizer.elsewhere = _Closed()

    def __enter__(self) -> "Offload":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _settle(offload: "weakref.ref[Offload]", optimizer: torch.optim.Optimizer, *_: object) -> None:
    """What torch calls behind the post-hooks of each optimizer; does not keep an `Offload` alive that nobody closed."""
    found = offload()
    if found is not None and found.optimizer is optimizer:
        found.settle()


class _Closed:
    """What an optimizer has after its store was closed."""

    def finish(self) -> None:
        """Refuse."""
        raise RuntimeError("the states of this optimizer were on a disk, and the store is closed; make both anew")

    def loaded(self) -> None:
        """Refuse."""
        self.finish()

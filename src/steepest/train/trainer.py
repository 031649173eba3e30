# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, final

import psutil
import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.nn.constraints import keep_on_manifolds
from steepest.nn.decoder import Decoder
from steepest.optim.diagnostics import ParameterStep, diagnosed
from steepest.optim.engine import Engine
from steepest.train import checkpoint
from steepest.train.checkpoint import Checkpoints, Progress
from steepest.train.config import RunConfig, kept_settings
from steepest.train.data import Batches, TokenData, eval_windows
from steepest.train.distributed import Peers, gradients_stay_local, spread
from steepest.train.evaluation import Evaluation
from steepest.train.health import NonFiniteError, first_non_finite
from steepest.train.offload import Offload, OffloadOptions
from steepest.train.progress import Display
from steepest.train.run_folder import MetricsLog, RunFolder
from steepest.train.schedule import schedule_of
from steepest.train.signals import StopRequest
from steepest.train.tensorboard import TensorBoardLog

_PARTS = ("data", "forward", "backward", "optimizer", "evaluation")


#: Called after an evaluation with the step and the bits per byte; a true answer ends the run there.
Watch = Callable[[int, float], bool]


def check_lengths(config: RunConfig, data: TokenData) -> None:
    """Refuse text that is too short for one window of the context, before anything is written.

    Args:
        config: Context, batch and seed.
        data: Tokens.

    Raises:
        ValueError: With the lengths and what to do.
    """
    context = config.model.context
    Batches(data.train, context=context, batch=config.train.batch, seed=config.train.seed)
    eval_windows(data.val, context, 1)


@final
class Trainer:
    """Takes a model from one step to another, and records it.

    Args:
        config: The run's configuration, with nothing left on `"auto"`.
        data: Tokens.
        model: The model, the same in every process.
        build_optimizers: Called once the model is spread over the processes.
        run: Where records go.
        peers: The processes.
        display: What the user sees.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TokenData,
        model: Decoder,
        build_optimizers: Callable[[Decoder], Sequence[Optimizer]],
        run: RunFolder,
        peers: Peers,
        display: Display,
    ) -> None:
        self.config, self.model, self.run, self.peers, self.display = config, model, run, peers, display
        train, context = config.train, config.model.context
        self._schedule = schedule_of(train)
        self.batches = Batches(data.train, context=context, batch=train.batch, seed=train.seed)
        self.evaluation = Evaluation(data, context=context, batch=train.batch, peers=peers)
        self.parameters, self.flops_per_token = model.parameter_count(), model.flops_per_token(context)
        self.net = spread(model, peers)
        self.optimizers = build_optimizers(model)
        for optimizer in self.optimizers:
            keep_on_manifolds(optimizer, model.manifolds())
        self.checkpoints: Checkpoints = run.checkpoints(train.keep_last)
        self.progress = Progress(time_split=dict.fromkeys(_PARTS, 0.0))
        self.log: MetricsLog | None = None
        self.board: TensorBoardLog | None = None
        self._saved_step: int | None = None
        self.offload: Offload | None = None
        self.step_seconds: collections.deque[float] = collections.deque(maxlen=1000)

    def keep_states_in(self, folder: Path, options: OffloadOptions) -> None:
        """Move the optimizer's states to a disk; the run computes the same.

        Args:
            folder: For the store; what an earlier run left there is written over.
            options: How; they fit to `train.clip`.

        Raises:
            ValueError: If several processes hold copies, or there are several optimizers, or diagnostics are asked for.
            OSError: If the disk refuses or is too small.
        """
        (optimizer, *others), train = self.optimizers, self.config.train
        if self.peers.world > 1 and not self.peers.shard:
            raise ValueError("with several processes --offload needs --shard: each then keeps the states of its shards")
        if others or not isinstance(optimizer, Engine):
            raise ValueError("--offload is for one optimizer of steepest.optim")
        if train.diagnose_every:
            raise ValueError("--offload cannot look into steps: use train.diagnose_every=0")
        self.offload = Offload(optimizer, folder, options, overwrite=True)

    def restore(self) -> list[str]:
        """Continue from the newest intact checkpoint.

        Returns:
            Warnings about damaged ones.

        Raises:
            ValueError: If there is no intact checkpoint or it does not fit.
        """
        path, warnings = self.checkpoints.newest_intact()
        if self.peers.shard or checkpoint.is_sharded(path):
            from steepest.train import sharded_checkpoint  # brings in much of torch.distributed

            self.progress = sharded_checkpoint.load(path, self.model, self.optimizers, self.offload)
        else:
            self.progress = checkpoint.load(path, self.model, self.optimizers, self.offload)
        self._saved_step = self.progress.step
        here, there = kept_settings(self.config), self.progress.settings
        for key in here.keys() & there.keys():
            if here[key] != there[key]:
                raise ValueError(
                    f"{self.run.path / 'config.json'} has {key}={here[key]!r}, but {path.name} was trained with "
                    f"{there[key]!r}; put it back"
                )
        return warnings

    def fit(self, stop: StopRequest, watch: Watch | None = None) -> str:
        """Train until the last step, or until a stop is requested.

        Args:
            stop: Looked at after every step.
            watch: Asked after every evaluation but the last; it must answer the same in every process.

        Returns:
            `"finished"` or `"interrupted"`, with a checkpoint of the last step; or `"stopped"` by `watch`, without.

        Raises:
            NonFiniteError: If the loss or the gradient is not finite.
            OSError: If a record cannot be written.
        """
        train = self.config.train
        if self.peers.is_main:
            self.log = MetricsLog(self.run.metrics, self.progress.metrics_bytes)
            if train.tensorboard:
                self.board = TensorBoardLog(self.run.path / "tensorboard", self.progress.step)
        started, before = time.perf_counter(), self.progress.seconds
        try:
            while self.progress.step < train.steps:
                loss, norm, stopping = self._step(stop)
                step = self.progress.step
                self.progress.seconds = before + time.perf_counter() - started
                last = step == train.steps
                if step % train.log_every == 0 or last:
                    self._log_step(loss, norm)
                if _due(step, train.eval_every) and not last:
                    found = self.evaluate(train.eval_tokens)
                    self.progress.seconds = before + time.perf_counter() - started
                    if watch and watch(step, found):
                        return "stopped"
                if last:
                    self.evaluate(None)
                    self.progress.seconds = before + time.perf_counter() - started
                if _due(step, train.checkpoint_every) or last or stopping:
                    self.save()
                if stopping and not last:
                    return "interrupted"
            return "finished"
        finally:
            for log in (self.log, self.board):
                if log:
                    log.close()

    def evaluate(self, tokens: int | None) -> float:
        """Evaluate on the first `tokens` of the validation split (None: all of it); record and return bits per byte."""
        with self._timed("evaluation"), self._autocast():
            loss, bits_per_byte = self.evaluation(self.net, tokens)
        self.progress.best = min(self.progress.best, bits_per_byte)
        self.progress.evaluated_step, self.progress.evaluated = self.progress.step, bits_per_byte
        self._write(kind="eval", loss=loss, bits_per_byte=bits_per_byte)
        self.display.evaluated(self.progress.step, bits_per_byte)
        return bits_per_byte

    def save(self) -> None:
        """Write a checkpoint of this step, unless it is there, and remove those that are no longer kept."""
        progress = self.progress
        if self._saved_step == progress.step:
            return
        progress.settings = kept_settings(self.config)
        if self.log:
            self.log.sync()
            progress.metrics_bytes = self.log.bytes_written
        evaluated = progress.evaluated if progress.evaluated_step == progress.step else None
        if evaluated is not None and evaluated < progress.best_checkpoint:
            progress.best_checkpoint, progress.best_step = evaluated, progress.step
        path = self.checkpoints.path(progress.step)
        try:
            if self.peers.shard:
                from steepest.train import sharded_checkpoint

                sharded_checkpoint.save(path, self.model, self.optimizers, progress, self.peers, self.offload)
            elif self.peers.is_main:
                checkpoint.save(path, self.model, self.optimizers, progress, self.offload)
        except OSError as error:
            kept = f"step {self._saved_step} is safe" if self._saved_step is not None else "none was written before"
            raise OSError(
                f"the checkpoint of step {progress.step} could not be written to {path}: {error.strerror or error} "
                f"({kept}); make room and continue with --resume {self.run.path}"
            ) from None
        self.peers.wait()
        self._saved_step = progress.step
        if self.peers.is_main:
            self.checkpoints.remove_old(progress.best_step)

    def _step(self, stop: StopRequest) -> tuple[float, float, bool]:
        """Take one optimizer step; return loss, gradient norm, and whether any process was asked to stop."""
        train, progress, peers, start = self.config.train, self.progress, self.peers, time.perf_counter()
        with self._timed("data"):
            ids, targets = self.batches.batch(progress.step, peers.rank, peers.world)
        rounds = list(zip(ids.chunk(train.accumulation), targets.chunk(train.accumulation), strict=True))
        loss, factor = 0.0, self._schedule(progress.step)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak_lr"] * factor
        for index, (some_ids, some_targets) in enumerate(rounds):
            with gradients_stay_local(self.net, peers, local=index + 1 < len(rounds)), self._waiting(index, rounds):
                with self._timed("forward"), self._autocast():
                    part = self.net(some_ids, targets=some_targets).mean() / len(rounds)
                    loss += part.item()
                with self._timed("backward"):
                    part.backward()
        total, stops = peers.sum(loss / peers.world, float(stop.received is not None))
        with self._timed("optimizer"):
            norm = self._clip_gradient()
            if not math.isfinite(total) or not math.isfinite(norm):
                if self.offload:
                    self.offload.rollback()
                raise self._non_finite(total, ids, targets)
            for optimizer in self.optimizers:
                self._take_step(optimizer)
                optimizer.zero_grad(set_to_none=True)
        self.step_seconds.append(time.perf_counter() - start)
        progress.step += 1
        progress.tokens += train.batch * self.config.model.context
        self.display.stepped(progress.step, total, progress.tokens)
        return total, norm, stops > 0

    def _waiting(self, index: int, rounds: Sized) -> contextlib.AbstractContextManager[Any]:
        """While gradients add up, nothing steps by them."""
        if self.offload and index + 1 < len(rounds):
            return self.offload.accumulating()
        return contextlib.nullcontext()

    def _take_step(self, optimizer: Optimizer) -> None:
        """Step the optimizer; record what it does to each layer where that is due."""
        step = self.progress.step + 1
        if not (_due(step, self.config.train.diagnose_every) and isinstance(optimizer, Engine)):
            optimizer.step()
            return
        split, before = self.progress.time_split, time.perf_counter()
        with diagnosed(optimizer) as rows:
            optimizer.step()
        spent = time.perf_counter() - before
        split["diagnosis"] = split.get("diagnosis", 0.0) + spent
        split["optimizer"] -= spent  # the caller counts this step, too
        if self.log:
            self.log.write({"kind": "layers", "step": step, "layers": layers_of(rows)})

    def _clip_gradient(self) -> float:
        """Return the norm of the whole gradient; clip it, unless it is not finite: then somebody must look at it."""
        if self.offload:
            return self.offload.total_norm(self.model.parameters()).item()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.peers.shard:
            norm = norm.full_tensor()  # pyright: ignore[reportAttributeAccessIssue] (a DTensor)
        if self.config.train.clip and math.isfinite(norm.item()):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.train.clip, norm)
        return norm.item()

    def _non_finite(self, loss: float, ids: Tensor, targets: Tensor) -> NonFiniteError:
        where = "look at the gradients of a run on one process" if self.peers.shard else ""
        if not where:
            with self._autocast():
                where = f"first in {first_non_finite(self.model, ids, targets)}"
        good = f"last good checkpoint: step {self._saved_step}" if self._saved_step else "no checkpoint was written yet"
        return NonFiniteError(
            f"the loss or its gradient is not finite at step {self.progress.step + 1} (loss {loss}): {where}; {good}; "
            "lower optim.lr, or raise train.warmup, and start again"
        )

    def _log_step(self, loss: float, norm: float) -> None:
        speed = self.display.tokens_per_second
        group = self.optimizers[0].param_groups[0]
        self._write(
            kind="train",
            loss=loss,
            bits_per_byte=self.evaluation.bits_per_byte(loss),
            lr=group["lr"],
            grad_norm=norm,
            tokens_per_second=speed,
            flops_per_second=speed * self.flops_per_token,
            rss_bytes=psutil.Process().memory_info().rss,
        )

    def _write(self, *, kind: str, **row: Any) -> None:
        if self.log:
            p = self.progress
            row = {"kind": kind, "step": p.step, "tokens": p.tokens, "seconds": round(p.seconds, 3), **row}
            self.log.write(row)
            if self.board:
                self.board.write(row)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.train.precision == "bfloat16":
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.progress.time_split[part] += time.perf_counter() - start


def layers_of(rows: Iterable[ParameterStep]) -> dict[str, dict[str, float]]:
    """Return what a step did to each layer as `metrics.jsonl` holds it: name -> quantity -> value, finite ones."""
    return {row.name: {k: v for k, v in vars(row).items() if k != "name" and math.isfinite(v)} for row in rows}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

# SPDX-License-Identifier: Apache-2.0
"""A whole run, from a configuration to a finished folder: data, model, loop, baselines, sample, report."""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steepest.nn.generate import SamplingConfig
from steepest.train import files, machine
from steepest.train.baselines import compute_baselines
from steepest.train.config import KEPT, RunConfig, apply_overrides, to_dict
from steepest.train.data import TokenData, prepare
from steepest.train.distributed import Peers, is_restart, join_peers
from steepest.train.optimizers import build_optimizers
from steepest.train.planned import Placement, Within, compared, place, place_blocks
from steepest.train.progress import Display
from steepest.train.report import write_html_report, write_loss_figure
from steepest.train.run_folder import RunFolder
from steepest.train.sample import read_model, write_text
from steepest.train.signals import EXIT_STATUS, StopRequest
from steepest.train.trainer import Trainer, Watch, check_lengths


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        path: The run folder.
        status: `"finished"`, `"interrupted"` by a signal, or `"stopped"` by its watch.
        exit_status: For the process: 0, 130 after SIGINT, 143 after SIGTERM.
    """

    path: Path
    status: str
    exit_status: int


def start(
    config: RunConfig,
    *,
    out: Path | None = None,
    shard: bool = False,
    offload: Path | Within | None = None,
    quiet: bool = False,
    pages: bool = True,
    watch: Watch | None = None,
) -> Outcome:
    """Train a new run; where torchrun has restarted the processes of one, go on with it.

    Args:
        config: What to train.
        out: The run folder, new or empty; None makes one under `runs/` named by time, model and optimizer.
        shard: Split the model among the processes of torchrun (FSDP2).
        offload: Keep the optimizer's states in this folder while training; it is emptied at the end. Or a limit of
            memory, and the folder to use, for which it is planned what lives where.
        quiet: Show nothing.
        pages: Draw `loss.png` and `report.html` at the end.
        watch: See `Trainer.fit`.

    Returns:
        Where the run is and how it ended.

    Raises:
        ValueError: If the configuration, the text or the folder cannot be used.
        OSError: If a file cannot be read or written.
    """
    if out is not None and is_restart() and (out / "config.json").is_file():
        return resume(out, shard=shard, offload=offload, quiet=quiet, pages=pages, watch=watch)
    with join_peers(shard=shard) as peers:
        _set_threads(config, peers)
        display = Display(config.train.steps, quiet=quiet or not peers.is_main)
        data = _prepare(config, peers, display)
        config = _resolve(config, data, peers)
        check_lengths(config, data)
        placement = place(config, offload, peers, display)
        out = Path(peers.share(str(out or _default_folder(config))))
        if peers.is_main:
            RunFolder.create(out, config, data)
        peers.wait()
        stop, status = _fit(RunFolder(out), config, data, peers, display, placement, resume=False, watch=watch)
    return _finish(RunFolder(out), config, data, peers, display, stop, status, pages=pages)


def resume(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    shard: bool = False,
    offload: Path | Within | None = None,
    quiet: bool = False,
    pages: bool = True,
    watch: Watch | None = None,
) -> Outcome:
    """Continue a run from its newest intact checkpoint, to the same bits as if it had not stopped.

    Args:
        path: The run folder.
        overrides: Changes of `train` settings, for example `train.steps=2000` to train longer.
        shard: Split the model among the processes of torchrun (FSDP2).
        offload: As for `start`; a run may be begun without and continued with it, and the other way round.
        quiet: Show nothing.
        pages: Draw `loss.png` and `report.html` at the end.
        watch: See `Trainer.fit`.

    Returns:
        Where the run is and how it ended.

    Raises:
        ValueError: If the folder cannot be resumed or an override would change what was trained so far.
        OSError: If a file cannot be read or written.
    """
    with join_peers(shard=shard) as peers:
        run = RunFolder.open(path)
        config = _changed(run.config(), overrides)
        _set_threads(config, peers)
        display = Display(config.train.steps, quiet=quiet or not peers.is_main)
        data = _prepare(config, peers, display)
        run.check_data(data)
        placement = place(config, offload, peers, display)
        if peers.is_main and overrides:
            files.write_json(path / "config.json", to_dict(config))
        again = run.has_checkpoint() or not is_restart()  # torchrun restarts what died before its first checkpoint, too
        stop, status = _fit(run, config, data, peers, display, placement, resume=again, watch=watch)
    return _finish(run, config, data, peers, display, stop, status, pages=pages)


def _fit(
    run: RunFolder,
    config: RunConfig,
    data: TokenData,
    peers: Peers,
    display: Display,
    placement: Placement,
    *,
    resume: bool,
    watch: Watch | None,
) -> tuple[StopRequest, str]:
    with run.lock(owner=peers.is_main), placement.memory(), StopRequest() as stop, display:
        if peers.is_main:
            run.remove_incomplete()
        torch.manual_seed(config.train.seed)
        model = config.model.build(torch.Generator().manual_seed(config.train.seed))
        trainer = Trainer(config, data, model, lambda built: build_optimizers(built, config.optim), run, peers, display)
        options = placement.options(config)
        if options and placement.folder:
            trainer.keep_states_in(placement.folder, options)
        if resume:
            for warning in trainer.restore():
                display.note(f"warning: {warning}; using the one before")
            display.note(f"resuming {run.path} at step {trainer.progress.step} of {config.train.steps}")
        else:
            display.note(
                f"model   {model.parameter_count():,} parameters, {model.parameter_count(blocks_only=True):,} in the "
                f"blocks; {config.optim.name}, {config.train.precision}"
            )
            display.note(f"run     {run.path}")
        display.begin(trainer.progress.step, trainer.progress.tokens)
        try:
            with ExitStack() as stack:
                place_blocks(model, placement, stack)
                status = trainer.fit(stop, watch)
        finally:
            if trainer.offload:
                trainer.offload.remove()
        if peers.is_main:
            plan = compared(placement.plan, list(trainer.step_seconds), display) if placement.plan else None
            more = {"plan": plan} if plan else {}
            files.write_json(run.path / "summary.json", _summary(config, data, trainer, status) | more)
        return stop, status


def _finish(
    run: RunFolder,
    config: RunConfig,
    data: TokenData,
    peers: Peers,
    display: Display,
    stop: StopRequest,
    status: str,
    *,
    pages: bool,
) -> Outcome:
    """Write what people look at; the processes have parted by now."""
    if stop.received is not None and status != "finished":
        display.note(f"stopped by {stop.received.name} after saving a checkpoint; continue with --resume {run.path}")
        return Outcome(run.path, status, EXIT_STATUS[stop.received])
    if not peers.is_main:
        return Outcome(run.path, status, 0)
    summary = files.read_json(run.path / "summary.json")
    if config.train.baselines:
        display.note("computing the baselines: xz -9 and back-off n-grams on the same split")
        summary["baselines"] = compute_baselines(
            data.train_text, data.val_text, cache=config.data.cache, fingerprint=data.fingerprint
        )
        files.write_json(run.path / "summary.json", summary)
    if config.train.sample_tokens:
        files.write_text(run.path / "sample.txt", _sample(run, config, data))
    if pages:
        write_loss_figure(run.path)
        write_html_report(run.path)
    _tell(display, run, summary)
    return Outcome(run.path, status, 0)


def _summary(config: RunConfig, data: TokenData, trainer: Trainer, status: str) -> dict[str, Any]:
    progress = trainer.progress
    training = sum(progress.time_split[part] for part in ("data", "forward", "backward", "optimizer"))
    speed = progress.tokens / training if training else 0.0
    return {
        "status": status,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "parameters": trainer.parameters,
        "bits_per_byte": progress.evaluated,
        "best_bits_per_byte": progress.best if math.isfinite(progress.best) else None,
        "train_bytes": data.train_bytes,
        "val_bytes": data.val_bytes,
        "tokens_per_second": speed,
        "flops_per_second": speed * trainer.flops_per_token,
        "peak_rss_bytes": machine.peak_rss(),
        "time_split": progress.time_split,
    }


def _sample(run: RunFolder, config: RunConfig, data: TokenData) -> str:
    path, _ = run.checkpoints().newest_intact()
    prompt = config.train.sample_prompt.encode() or _opening(data.val_text[:400].tobytes())
    pieces = write_text(
        read_model(path),
        data.tokenizer,
        prompt,
        tokens=config.train.sample_tokens,
        sampling=SamplingConfig(),
        seed=config.train.seed,
    )
    return "".join(pieces) + "\n"


def _opening(text: bytes) -> bytes:
    """The first words of a text, up to about sixty bytes."""
    cut = text.find(b" ", 60)
    return text[:cut] if cut > 0 else text[:60]


def _tell(display: Display, run: RunFolder, summary: dict[str, Any]) -> None:
    from rich.table import Table

    speed = f"{summary['tokens_per_second']:,.0f} a second"
    table = Table(title=f"{summary['tokens']:,} tokens in {summary['seconds']:.0f} s, {speed}")
    table.add_column("validation")
    table.add_column("bits per byte", justify="right")
    table.add_row("this model", f"{summary['bits_per_byte']:.3f}", style="bold")
    for name, value in summary.get("baselines", {}).items():
        table.add_row(name, f"{value:.3f}")
    display.console.print(table)
    for name, what in (
        ("report.html", "the whole run on one page"),
        ("loss.png", "its loss"),
        ("sample.txt", "what it writes"),
    ):
        if (run.path / name).exists():
            display.note(f"{run.path / name}  {what}")
    display.note(f"steepest sample {run.path} --prompt 'Once'  writes more")


def _prepare(config: RunConfig, peers: Peers, display: Display) -> TokenData:
    """Prepare the tokens once: the main process fills the cache, the others find it full."""
    if peers.is_main:
        data = prepare(config.data, progress=not display.console.quiet)
        peers.wait()
    else:
        peers.wait()
        data = prepare(config.data, progress=False)
    display.note(f"data    {data.describe()}")
    for line in data.skipped[:5]:
        display.note(f"        skipped {line}")
    return data


def _resolve(config: RunConfig, data: TokenData, peers: Peers) -> RunConfig:
    """Fill in what depends on the tokens and on the machine."""
    train = config.train
    if train.batch % peers.world or (train.batch // peers.world) % train.accumulation:
        raise ValueError(
            f"train.batch={train.batch} cannot be split among {peers.world} processes in train.accumulation="
            f"{train.accumulation} rounds; use a multiple of {peers.world * train.accumulation}"
        )
    precision = peers.share(machine.training_precision(train.precision) if peers.is_main else None)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, vocab_size=data.tokenizer.vocab_size),
        train=dataclasses.replace(train, precision=precision),
    )


def _changed(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    changed = apply_overrides(config, list(overrides))
    for section in ("model", "data", "optim"):
        if getattr(changed, section) != getattr(config, section):
            raise ValueError(f"a resumed run keeps its {section} settings; start a new run to change them")
    for name in KEPT:
        if getattr(changed.train, name) != getattr(config.train, name):
            raise ValueError(f"a resumed run keeps train.{name}; start a new run to change it")
    return changed


def _set_threads(config: RunConfig, peers: Peers) -> None:
    """Give each process of this machine its share of the cores."""
    torch.set_num_threads(config.train.threads or max(1, machine.cores() // peers.world))


def _default_folder(config: RunConfig) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{config.optim.method}"

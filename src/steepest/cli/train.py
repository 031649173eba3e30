# SPDX-License-Identifier: Apache-2.0
"""`steepest train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from steepest.cli._settings import is_given, settings_of

if TYPE_CHECKING:
    from steepest.train.planned import Within


def train(
    data: list[str] = typer.Option(
        [], help="Text files, folders or globs; may be repeated. Default: the text that ships with the package."
    ),
    column: str = typer.Option("", help="Column that holds the text of Parquet or JSON Lines files."),
    tokenizer: str = typer.Option("", help="`bpe` (trained on your text) or `bytes`."),
    model: str = typer.Option(
        "",
        help="Model: a Llama of size nano, micro, tiny, mini, small, medium, base, large, 1b, 3b, or another family's "
        "with its name before it, as in ngpt-tiny.",
    ),
    optim: str = typer.Option(
        "",
        help="Optimizer and its settings: muon, 'sinkgd lr=0.02', steepest:norm=schatten4.",
    ),
    lr: float = typer.Option(None, help="Largest learning rate of that optimizer."),
    steps: int = typer.Option(None, help="Optimizer steps."),
    out: Path = typer.Option(None, help="Folder of the run. Default: a new one under runs/."),
    config: Path = typer.Option(None, help="TOML or JSON file with settings; flags and --set go before it."),
    set_: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated."),
    resume: Path = typer.Option(None, help="Continue this run folder, bit for bit."),
    shard: bool = typer.Option(False, "--shard", help="Under torchrun: split the model among the processes (FSDP2)."),
    offload: Path = typer.Option(
        None, metavar="DIR", help="Keep the optimizer's states, and gradients, in this folder instead of in memory."
    ),
    memory_limit: str = typer.Option(
        "",
        metavar="SIZE",
        help="Plan what lives where, so that the run needs no more memory than 4GB or 4GiB by the plan's prediction. "
        "Nothing enforces it; the measured peak is shown beside it. With --offload, what does not fit goes there.",
    ),
    tensorboard: bool = typer.Option(False, "--tensorboard", help="Also write TensorBoard event files."),
    print_config: bool = typer.Option(False, "--print-config", help="Print the settings as TOML and exit."),
    quiet: bool = typer.Option(False, "--quiet", help="Show nothing but errors."),
) -> None:
    """Learn a language model from text.

    Without options: a model of a few million parameters on the text that ships with the package, in a few minutes on
    two CPU cores, with a picture of its loss, a sample of its writing and a report in a new folder under `runs/`.

    Examples:
    * `steepest train` learns the shipped text

    * `steepest train --data notes/ --data 'books/*.txt' --model mini --steps 3000` learns yours

    * `steepest train --data talk.jsonl --column text --tokenizer bytes --optim adamw --lr 3e-3`

    * `steepest train --optim 'sinkgd lr=0.02'` chooses another method; `steepest optimizers` lists them

    * `steepest train --set train.batch=32 --set model.layers=6 --print-config > run.toml` writes a settings file

    * `steepest train --config run.toml --out runs/second` uses it

    * `steepest train --resume runs/second` continues after an interruption, to the same bits

    * `steepest train --model base --offload /var/tmp/states` trains with a quarter of the memory, to the same bits

    * `steepest train --model base --memory-limit 2GB --offload /var/tmp/states` plans what goes to the disk, and trains

    * `torchrun --nproc-per-node 2 -m steepest train --model small --shard` uses two processes
    """
    from steepest.train.config import to_toml

    if resume is not None:
        _continue(
            resume,
            set_,
            shard=shard,
            offload=_where(offload, memory_limit),
            quiet=quiet,
            refused={
                "--data": data,
                "--model": model,
                "--optim": optim,
                "--out": out,
                "--config": config,
                "--steps": steps,
                "--lr": lr,
            },
        )
        return
    flags: dict[str, dict[str, object]] = {
        "data": {"paths": data, "column": column, "tokenizer": tokenizer},
        "optim": {"name": optim, "lr": lr},
        "train": {"steps": steps, "tensorboard": tensorboard},
    }
    settings = settings_of(config, model, flags, set_)
    if print_config:
        typer.echo(to_toml(settings), nl=False)
        return
    from steepest.train.session import start

    where = _where(offload, memory_limit)
    raise typer.Exit(start(settings, out=out, shard=shard, offload=where, quiet=quiet).exit_status)


def _where(offload: Path | None, memory_limit: str) -> "Path | Within | None":
    """A folder, or a limit and the folder."""
    if not memory_limit:
        return offload
    from steepest.train.planned import Within
    from steepest.train.report.units import parse_size

    return Within(limit=parse_size(memory_limit, "--memory-limit"), folder=offload)


def _continue(
    run: Path,
    overrides: list[str],
    *,
    shard: bool,
    offload: "Path | Within | None",
    quiet: bool,
    refused: dict[str, object],
) -> None:
    given = [name for name, value in refused.items() if is_given(value)]
    if given:
        raise ValueError(f"--resume keeps the run's settings, so {given[0]} cannot be given; use --set train.KEY=VALUE")
    from steepest.train.session import resume

    raise typer.Exit(resume(run, overrides=overrides, shard=shard, offload=offload, quiet=quiet).exit_status)

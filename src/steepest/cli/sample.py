# SPDX-License-Identifier: Apache-2.0
"""`steepest sample`."""

from pathlib import Path

import typer


def sample(
    run: Path = typer.Argument(help="Folder of a run."),
    prompt: str = typer.Option("The ", help="Start of the text."),
    tokens: int = typer.Option(200, min=0, help="How many tokens to write."),
    temperature: float = typer.Option(0.8, help="Above 1 is bolder, below 1 safer; 0 takes the most probable token."),
    top_k: int = typer.Option(0, help="Choose among the k most probable tokens; 0 means all."),
    top_p: float = typer.Option(0.95, help="Choose among the most probable tokens that hold this share; 1 means all."),
    seed: int = typer.Option(0, help="Same seed, same text."),
) -> None:
    """Write text with a trained model.

    Examples:
    * `steepest sample runs/20260101-120000-muon --prompt 'My fellow citizens'`

    * `steepest sample runs/first --temperature 0 --tokens 50` takes the most probable token each time

    * `steepest sample runs/first --top-k 40 --seed 3`
    """
    from steepest.nn.generate import SamplingConfig

    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    if not prompt:
        raise ValueError("--prompt is empty: give at least one letter")
    from steepest.train.run_folder import RunFolder
    from steepest.train.sample import read_model, write_text

    folder = RunFolder.open(run)
    path, warnings = folder.checkpoints().newest_intact()
    for warning in warnings:
        typer.echo(f"warning: {warning}; using the one before", err=True)
    text = prompt.encode("utf-8", errors="surrogateescape")
    tokenizer = folder.read_tokenizer()
    for piece in write_text(read_model(path), tokenizer, text, tokens=tokens, sampling=sampling, seed=seed):
        typer.echo(piece, nl=False)
    typer.echo()

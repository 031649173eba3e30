# SPDX-License-Identifier: Apache-2.0
"""One training step of `steepest train` beside the same step in plain PyTorch (`plain_llama.py`), alternating.

    python -m benchmarks.train_step --model tiny --batch 16 --precision bfloat16

Same shape, batch, dtype, optimizer and threads; each side runs a few steps, then the other, round after round. The
memory setting of `steepest train` is on for our steps and off for the baseline's. Medians over the rounds, quartiles.
"""

import argparse
import contextlib
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.plain_llama import PlainLlama
from steepest.nn import Llama, preset
from steepest.train import machine
from steepest.train.config import OptimConfig
from steepest.train.memory import keep_freed_memory
from steepest.train.optimizers import build_optimizers

RESULTS = Path(__file__).parent / "results"


def autocast(precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def ours(model: str, vocab: int, optim: str, precision: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    net = Llama(preset(model, vocab_size=vocab))
    optimizers = build_optimizers(net, OptimConfig(name=optim))

    def step(ids: torch.Tensor, targets: torch.Tensor) -> None:
        with autocast(precision):
            loss = net(ids, targets=targets).mean()
        loss.backward()
        parameters = list(net.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def plain(model: str, vocab: int, optim: str, precision: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    c = preset(model, vocab_size=vocab)
    net = PlainLlama(vocab, c.width, c.layers, c.heads, c.hidden_ffn_width, c.context)
    hidden = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    rest = [p for p in net.parameters() if not any(p is h for h in hidden)]
    optimizers: list[torch.optim.Optimizer] = []
    if optim == "muon":
        optimizers = [torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0)]
    else:
        rest = [*hidden, *rest]
    optimizers.append(torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), fused=True))

    def step(ids: torch.Tensor, targets: torch.Tensor) -> None:
        with autocast(precision):
            loss = net(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def time_steps(step: Callable[[torch.Tensor, torch.Tensor], None], data: tuple, count: int) -> float:
    """Return the seconds of one step, the mean of `count` after one that is not counted."""
    step(*data)
    start = time.perf_counter()
    for _ in range(count):
        step(*data)
    return (time.perf_counter() - start) / count


def compare(arguments: argparse.Namespace) -> dict:
    """Alternate the two sides and return the result."""
    c = preset(arguments.model)
    ids = torch.randint(arguments.vocab, (arguments.batch, c.context + 1), generator=torch.Generator().manual_seed(0))
    data = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    settings = (arguments.model, arguments.vocab, arguments.optim, arguments.precision)
    sides = {"steepest": ours(*settings), "plain PyTorch": plain(*settings)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, step in sides.items():
            keep_freed_memory(name == "steepest")
            seconds[name].append(time_steps(step, data, arguments.steps))
    tokens = arguments.batch * c.context
    result: dict = {**vars(arguments), "threads": torch.get_num_threads(), "tokens": tokens}
    for name, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4)
        result[name] = {
            "seconds": [low, median, high],
            "tokens_per_second": tokens / median,
        }
    ratios = [p / o for o, p in zip(seconds["steepest"], seconds["plain PyTorch"], strict=True)]
    result["speed-up"] = {"median": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}
    return result


def main() -> None:
    """Measure one setting and append it to the day's result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--optim", default="adamw", choices=("adamw", "muon"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = compare(arguments)
    print(json.dumps(result, indent=1))
    if arguments.save:
        path = RESULTS / f"train_step_{datetime.date.today().isoformat()}.json"
        described = machine.describe_for_record()
        known = json.loads(path.read_text()) if path.exists() else {"machine": described, "results": []}
        known["results"].append(result)
        path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A training step of a Hugging Face model before and after `steepest.patch`: time, peak memory, profile by part.

python benchmarks/nn/patch.py --model llama --dtype float32 --threads 2 --memory too --out here.json
"""

import argparse
import contextlib
import copy
import dataclasses
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.profiler import profile

import steepest
from steepest.bench.timing import Timing, machine

_DECODER = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376}
#: Name to the classes of configuration and model, and the sizes.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**_DECODER, "vocab_size": 32000}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_DECODER, "head_dim": 64, "num_key_value_heads": 8,
                                                  "vocab_size": 32000}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 512, "n_layer": 8, "n_head": 8, "vocab_size": 32000}),
    "bert": ("BertConfig", "BertForMaskedLM", {**_DECODER, "vocab_size": 32000}),
}  # fmt: skip
_PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm_", "aten::baddbmm", "mkldnn"),
    "attention": ("attention", "_Blocked", "aten::_softmax", "aten::masked_fill_"),
    "loss": ("log_softmax", "nll_loss", "CrossEntropy"),
    "copies and casts": ("aten::copy_", "aten::clone", "aten::fill_", "aten::zero_", "aten::cat"),
    "embedding": ("embedding", "aten::index"),
}


def build(name: str) -> nn.Module:
    """Return a model with random weights, in train mode.

    Args:
        name: One of the models here.
    """
    config, model, sizes = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**sizes)).train()


def stepper(model: nn.Module, ids: Tensor, dtype: str) -> Callable[[], None]:
    """Return a call that does forward and backward and drops the gradients.

    Args:
        model: Takes ids and labels.
        ids: Both of them.
        dtype: "float32", or "bfloat16" for autocast.
    """

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def alternate_steps(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timing]:
    """Return the time of a step of each, in turn; each runs once before, for a step lasts seconds.

    Args:
        steps: Name to a step.
        rounds: Steps of each that count, at least two.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for counts in [False] + [True] * rounds:
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if counts:
                seconds[name].append(time.perf_counter() - begun)
    found = {}
    for name, taken in seconds.items():
        low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
        found[name] = Timing(median, low, high, min(taken))
    return found


def parts(step: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of one step by part.

    Args:
        step: What to profile; called once before.
    """
    step()
    with profile() as recorded:
        step()
    seconds: Counter[str] = Counter()
    for event in recorded.key_averages():
        part = next((p for p, names in _PARTS.items() if any(n in event.key for n in names)), "everything else")
        seconds[part] += event.self_cpu_time_total / 1e6
    return {name: round(seconds[name], 4) for name in (*_PARTS, "everything else")}


def peak_bytes(options: argparse.Namespace, patched: bool) -> int:
    """Return the peak resident memory of three steps in a process of their own, less that of the built model.

    Args:
        options: Of the command line.
        patched: Whether the model is.
    """
    command = [sys.executable, __file__, "--child", "patched" if patched else "plain"]
    for name in ("model", "dtype", "threads", "batch", "length"):
        command += [f"--{name}", str(getattr(options, name))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(options: argparse.Namespace, ids: Tensor) -> None:
    model = build(options.model)
    if options.child == "patched":
        steepest.patch(model)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = stepper(model, ids, options.dtype)
    for _ in range(3):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def compare(options: argparse.Namespace, ids: Tensor) -> dict[str, Any]:
    """Return what was measured of a model in one dtype.

    Args:
        options: Of the command line.
        ids: Tokens of a step.
    """
    plain = build(options.model)
    ours = copy.deepcopy(plain)
    report = steepest.patch(ours)
    steps = {"plain": stepper(plain, ids, options.dtype), "patched": stepper(ours, ids, options.dtype)}
    if options.compile:
        steps["torch.compile"] = stepper(torch.compile(copy.deepcopy(plain)), ids, options.dtype)  # pyright: ignore[reportArgumentType]
    timings = alternate_steps(steps, options.rounds)
    tokens = ids.numel()
    found: dict[str, Any] = {
        "seconds": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "tokens_per_second": {name: tokens / t.median for name, t in timings.items()},
        "speedup": {name: t.median / timings["patched"].median for name, t in timings.items() if name != "patched"},
        "changed": report.changed,
    }  # fmt: skip
    if not options.no_profile:
        found["profile"] = {name: parts(steps[name]) for name in ("plain", "patched")}
    return found


def table(found: dict[str, Any]) -> str:
    """Return what was measured as text.

    Args:
        found: Of `compare`.
    """
    lines = []
    for name, s in found["seconds"].items():
        rate = found["tokens_per_second"][name]
        lines.append(f"{name:16} {s['median']:8.3f} s ({s['low']:.3f} to {s['high']:.3f}), {rate:7.0f} tokens/s")
    if "profile" in found:
        before, after = found["profile"]["plain"], found["profile"]["patched"]
        lines.append(f"{'part':20}{'plain':>10}{'patched':>10}")
        lines += [f"{name:20}{before[name]:10.3f}{after[name]:10.3f}" for name in before]
    if "peak_bytes" in found:
        lines.append(
            "peak MB over the model: " + ", ".join(f"{n} {b / 1e6:.0f}" for n, b in found["peak_bytes"].items())
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="llama")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="time torch.compile of the unpatched model too")
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument(
        "--memory", choices=("none", "too", "only"), default="none", help="peaks, in processes of their own"
    )
    parser.add_argument("--out", type=Path, help="JSON file; a case that is there gets the new values")
    parser.add_argument("--child", choices=("plain", "patched"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ids = torch.randint(0, MODELS[options.model][2]["vocab_size"], (options.batch, options.length))
    if options.child:
        return child(options, ids)
    found = {} if options.memory == "only" else compare(options, ids)
    if options.memory != "none":
        found["peak_bytes"] = {n: peak_bytes(options, n == "patched") for n in ("plain", "patched")}
    print(table({"seconds": {}, **found}))
    if options.out:
        save(options, found)


def save(options: argparse.Namespace, found: dict[str, Any]) -> None:
    case = f"{options.model} {options.batch}x{options.length} {options.dtype} {options.threads} threads"
    record = json.loads(options.out.read_text()) if options.out.exists() else {"cases": {}}
    record["machine"] = {k: v for k, v in machine().items() if k != "threads"}
    record["machine"]["versions"]["transformers"] = metadata.version("transformers")
    record["cases"].setdefault(case, {}).update(found)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

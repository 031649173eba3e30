# SPDX-License-Identifier: Apache-2.0
"""From the few words of a command to the rules of a comparison."""

import dataclasses
from collections.abc import Sequence

from steepest.lab.comparison import Method, Range, method_of
from steepest.train.config import RunConfig, apply_overrides

#: Sized for `steepest compare adamw muon sinkgd` on two cores: see the page on comparing.
DEFAULT_STEPS, DEFAULT_TRIALS, DEFAULT_EXTRA, DEFAULT_SEEDS = 200, 7, 2, 3


def base_config(model: str, steps: int, overrides: Sequence[str] = ()) -> RunConfig:
    """Return what the runs of a comparison share.

    Args:
        model: A preset of the model's size.
        steps: Of a whole run.
        overrides: `section.key=value`, as of `steepest train --set`.

    Returns:
        float32, one thread, a warm-up of a tenth, ten evaluations, five records of the layers. The validation split is
        a hundredth of the text, so that every evaluation of the shipped text takes all of it, as the final one does.

    Raises:
        ValueError: If an override names nothing.
    """
    from steepest.train.config import from_dict

    train = {
        "steps": steps,
        "warmup": max(1, steps // 10),
        "precision": "float32",
        "threads": 1,
        "baselines": False,
        "sample_tokens": 0,
        "eval_every": max(1, steps // 10),
        "diagnose_every": max(1, steps // 5),
        "eval_tokens": 65536,
        "checkpoint_every": 500,
        "keep_last": 1,
    }
    return apply_overrides(
        from_dict({"train": train, "data": {"val_fraction": 0.01}}, from_dict({"model": model})), list(overrides)
    )


def with_data(run: RunConfig) -> tuple[RunConfig, str]:
    """Return a text configuration with its vocabulary's size, and the fingerprint of its tokens.

    Raises:
        FileNotFoundError: If there is no such text.
        ValueError: If the text cannot be used.
    """
    from steepest.train.data import prepare
    from steepest.train.trainer import check_lengths

    data = prepare(run.data, progress=False)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=data.tokenizer.vocab_size))
    check_lengths(run, data)
    return run, data.fingerprint


def with_task(run: RunConfig, task: str) -> tuple[RunConfig, str]:
    """Return the configuration of a task and the fingerprint of its data, having looked whether the task can be done.

    Args:
        run: What the runs share.
        task: `"text"`, see `with_data`, or one of `steepest.lab.tasks`, whose problem is built once and thrown away.

    Returns:
        The configuration, and the fingerprint; empty for tasks other than text.

    Raises:
        ValueError: If there is no such task, or it returns something else than a problem.
    """
    if task == "text":
        return with_data(run)
    from steepest.lab.tasks import problem_of

    problem_of(task, run.train.seed)
    return run, ""


def methods_of(texts: Sequence[str], spaces: Sequence[str] = (), shares: Sequence[str] = ()) -> tuple[Method, ...]:
    """Return the methods of a command.

    Args:
        texts: Optimizers; one named twice gets a number.
        spaces: `"muon: lr=1e-3..0.1 momentum=0.8..0.98"`: further settings to search, or other ranges.
        shares: `"muon=0.667"`: parts of the steps.

    Raises:
        ValueError: If a text cannot be read or names no method of the comparison.

    Example:
        >>> [m.name for m in methods_of(["adamw", "adamw", "muon"], ["muon: lr=0.001..0.1"])]
        ['adamw', 'adamw 2', 'muon']
    """
    wanted: dict[str, dict[str, Range]] = {}
    for text in spaces:
        name, colon, rest = text.partition(":")
        if not colon or not rest.strip():
            raise ValueError(
                f"--space {text!r}: expected 'METHOD: setting=low..high', for example 'muon: lr=1e-3..0.1'"
            )
        wanted[name.strip()] = dict(_range(word) for word in rest.split())
    parts = dict(_share(text) for text in shares)
    for name in [*wanted, *parts]:
        if name not in texts:
            raise ValueError(f"{name!r} is none of the methods compared: {', '.join(texts)}")
    found: list[Method] = []
    for index, text in enumerate(texts):
        before = list(texts[:index]).count(text)
        name = f"{text} {before + 1}" if before else text
        found.append(method_of(text, space=wanted.get(text), share=parts.get(text, 1.0), name=name))
    return tuple(found)


def _range(word: str) -> tuple[str, Range]:
    key, equals, edges = word.partition("=")
    low, dots, high = edges.partition("..")
    try:
        if equals and dots:
            return key, Range(float(low), float(high))
    except ValueError as error:
        raise ValueError(f"--space {word!r}: {error}") from None
    raise ValueError(f"--space {word!r}: expected setting=low..high")


def _share(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    try:
        if equals:
            return name.strip(), float(value)
    except ValueError:
        pass
    raise ValueError(f"--share {text!r}: expected METHOD=PART, for example muon=0.667")

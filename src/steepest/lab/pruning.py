# SPDX-License-Identifier: Apache-2.0
"""Which runs of a search are stopped early, by a rule of Optuna's that does not depend on who ran first.

Every second point of a method's search, and the last, is a reference and runs to its end before the others of its
comparison begin. Those are judged against the references of their method alone. So any number of workers, killed at any
time, stop the same runs at the same steps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from steepest.lab.comparison import Comparison, Pruning
from steepest.lab.search import Trial, is_reference
from steepest.train.report.metrics import read_metrics

if TYPE_CHECKING:
    from pathlib import Path

#: Step -> loss of an evaluation.
Curve = Mapping[int, float]


def check_installed(comparison: Comparison) -> None:
    """Refuse to prune without Optuna, whose rule it is.

    Args:
        comparison: The rules.

    Raises:
        ModuleNotFoundError: If they ask for pruning and Optuna is not installed.
    """
    if comparison.pruning is None:
        return
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "these rules stop runs of the search by a rule of Optuna's: pip install 'steepest[lab]'", name="optuna"
        ) from None


def judge_of(comparison: Comparison, trial: Trial, results: Mapping[str, Mapping[str, Any]]) -> "Judge | None":
    """Return who decides whether a trial is stopped; None if nobody does.

    Args:
        comparison: The rules.
        trial: Which.
        results: Name of a trial -> its result; those of the references are there.
    """
    if comparison.pruning is None or trial.stage == "final" or is_reference(comparison, trial):
        return None
    curves = [
        curve_of(result)
        for result in results.values()
        if result["trial"]["method"] == trial.method
        and result["trial"]["stage"] == "search"
        and result["trial"]["number"] in comparison.references
        and result["loss"] is not None
    ]
    return Judge(comparison.pruning, comparison.steps(comparison.method(trial.method)), curves)


def curve_of(result: Mapping[str, Any]) -> dict[int, float]:
    """Return the evaluations that a result holds."""
    return {int(step): float(loss) for step, loss in result.get("curve", ())}


def read_curve(folder: "Path") -> list[tuple[int, float]]:
    """Return the evaluations of a run folder as its result holds them: finite ones, in order of steps."""
    rows = read_metrics(folder).eval
    bits = rows["bits_per_byte"]
    losses = bits if np.isfinite(bits).any() or "loss" not in rows else rows["loss"]
    return [(int(step), float(loss)) for step, loss in zip(rows["step"], losses, strict=True) if math.isfinite(loss)]


@final
class Judge:
    """Optuna's percentile pruner over the references of a method.

    Args:
        rule: From which part of a run on, and how many may stay.
        steps: Of a whole run.
        references: Their evaluations.
    """

    def __init__(self, rule: Pruning, steps: int, references: Sequence[Curve]) -> None:
        import optuna

        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every new study
        try:
            self._study = optuna.create_study(storage=None, direction="minimize")
        finally:
            optuna.logging.set_verbosity(loud)
        states = optuna.trial.TrialState
        for curve in references:
            last = curve[max(curve)] if curve else math.inf
            done = optuna.trial.create_trial(state=states.COMPLETE, value=last, intermediate_values=dict(curve))
            self._study.add_trial(done)
        after = math.ceil(rule.after * steps)
        self._pruner = optuna.pruners.PercentilePruner(rule.percentile, n_startup_trials=1, n_warmup_steps=after)

    def stops(self, curve: Curve) -> bool:
        """Whether a run ends here.

        Args:
            curve: Its evaluations so far, at least one.
        """
        import optuna

        asked = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(curve))
        return self._pruner.prune(self._study, asked)

# SPDX-License-Identifier: Apache-2.0
"""The trials of a comparison in an Optuna storage: a record that its tools read, and claims between machines.

What is tried comes from the file of the comparison (`steepest.lab.search`), not from a sampler that learns: then the
order in which processes finish changes nothing. Optuna keeps the trials, one study a method, in SQLite or any database.
"""

import contextlib
import json
import math
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from steepest.lab.comparison import Comparison, Range
from steepest.lab.pruning import curve_of
from steepest.lab.search import Trial, due
from steepest.lab.trial import RESULT, RUNS, result_of
from steepest.train import files

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState

FILE = "search.db"
#: Seconds between signs of life of a trial, and after how many without one it counts as dead.
_BEAT, _GRACE = 30, 600
#: How often a storage is opened before what stops it counts as an error.
_OPENINGS = 10


def open_record(root: Path, comparison: Comparison, url: str = "") -> "Record | None":
    """Return the record of a comparison, made if it is not there.

    Args:
        root: Folder of the comparison.
        comparison: Its rules.
        url: An Optuna storage, as `"postgresql://..."` or `"sqlite:///runs.db"`; empty takes `search.db` in the folder.

    Returns:
        The record; None if no storage is asked for and Optuna is not installed: the folder is enough for one machine.

    Raises:
        ModuleNotFoundError: If a storage is asked for and Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        if url:
            raise ModuleNotFoundError("--storage needs Optuna: pip install 'steepest[lab]'", name="optuna") from None
        return None
    return Record(root, comparison, url or f"sqlite:///{(root / FILE).resolve()}")


def study_name(comparison: Comparison, method: str) -> str:
    """Return the name of a method's study; comparisons of different rules have different ones."""
    return f"steepest {comparison.digest[:12]} {method}"


@final
class Record:
    """A comparison in an Optuna storage.

    Args:
        root: Folder of the comparison.
        comparison: Its rules.
        url: Of the storage.
    """

    def __init__(self, root: Path, comparison: Comparison, url: str) -> None:
        self.root, self.comparison = root, comparison
        #: Whose claims: a process that holds a trial's lock in this folder knows that its older ones are dead.
        self.owner = f"{socket.gethostname()}:{root.resolve()}"
        self.storage = _storage(url)
        self._ids = {method.name: self._study(study_name(comparison, method.name)) for method in comparison.methods}

    def sync(self) -> None:
        """Give the storage the results that only the folder has, and the folder those that only the storage has."""
        stored = {
            trial.user_attrs["name"]: trial.user_attrs["result"]
            for study in self._ids.values()
            for trial in self.storage.get_all_trials(study, deepcopy=False)
            if "result" in trial.user_attrs
        }
        for name, text in stored.items():
            path = self.root / RUNS / name / RESULT
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, json.loads(text))
        for trial in self._known():
            result = result_of(self.root, trial)
            if result is not None and trial.name not in stored:
                self._add(trial, result)

    @contextlib.contextmanager
    def claimed(self, trial: Trial) -> Iterator[bool]:
        """Claim a trial in the storage; call this with the trial's lock in the folder held.

        The earliest claim that shows signs of life has the trial. On leaving, the result of the folder is stored.

        Args:
            trial: Which.

        Yields:
            Whether it is ours now.
        """
        self._end_dead(trial)
        if self._rivals(trial):
            yield False
            return
        mine = self._add(trial, None)
        try:
            if self._rivals(trial, before=self.storage.get_trial(mine).number):
                self._end(mine, None)
                yield False
                return
            with _beating(self.storage, mine):
                yield True
        finally:
            self._end(mine, result_of(self.root, trial))

    def _known(self) -> list[Trial]:
        from steepest.lab.results import losses_of

        return due(self.comparison, losses_of(self.root, self.comparison))

    def _study(self, name: str) -> int:
        import optuna

        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every new study
        try:
            return self.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], name)
        except optuna.exceptions.DuplicatedStudyError:
            return self.storage.get_study_id_from_name(name)
        finally:
            optuna.logging.set_verbosity(loud)

    def _add(self, trial: Trial, result: Mapping[str, Any] | None) -> int:
        """Add a trial in one transaction, running or with its result."""
        import optuna

        space = self.comparison.method(trial.method).space
        attributes = {"name": trial.name, "stage": trial.stage, "seed": trial.seed, "owner": self.owner}
        states = optuna.trial.TrialState
        curve = {} if result is None else curve_of(result)
        state = states.RUNNING if result is None else _state(result)
        template = optuna.trial.create_trial(
            state=state,
            value=_value(result, curve) if result else None,
            params=dict(trial.values),
            intermediate_values=curve,
            distributions={key: _distribution(space[key], value) for key, value in trial.values.items()},
            user_attrs=attributes if result is None else {**attributes, "result": json.dumps(result)},
        )
        number = self.storage.create_new_trial(self._ids[trial.method], template)
        if result is None:
            self.storage.record_heartbeat(number)
        return number

    def _end(self, mine: int, result: Mapping[str, Any] | None) -> None:
        import optuna

        states = optuna.trial.TrialState
        # Where another process took us for dead the trial has ended: its result, which is the same, is stored.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            if result is None:
                self.storage.set_trial_state_values(mine, states.FAIL)
                return
            self.storage.set_trial_user_attr(mine, "result", json.dumps(result))
            curve = curve_of(result)
            for step, loss in curve.items():
                self.storage.set_trial_intermediate_value(mine, step, loss)
            value = _value(result, curve)
            self.storage.set_trial_state_values(mine, _state(result), None if value is None else [value])

    def _claims(self, trial: Trial) -> "list[FrozenTrial]":
        trials = self.storage.get_all_trials(self._ids[trial.method], deepcopy=False)
        return [t for t in trials if t.user_attrs.get("name") == trial.name]

    def _rivals(self, trial: Trial, before: float = math.inf) -> "list[FrozenTrial]":
        alive = (t for t in self._claims(trial) if not t.state.is_finished() or "result" in t.user_attrs)
        return [t for t in alive if t.number < before]

    def _end_dead(self, trial: Trial) -> None:
        stale = set(self.storage._get_stale_trial_ids(self._ids[trial.method]))
        for claim in self._claims(trial):
            ours = claim.user_attrs.get("owner") == self.owner
            if not claim.state.is_finished() and (ours or claim._trial_id in stale):
                self._end(claim._trial_id, None)


def _state(result: Mapping[str, Any]) -> "TrialState":
    from optuna.trial import TrialState

    if result["status"] == "pruned":
        return TrialState.PRUNED
    return TrialState.FAIL if result["loss"] is None else TrialState.COMPLETE


def _value(result: Mapping[str, Any], curve: Mapping[int, float]) -> float | None:
    """A loss; of a trial that was stopped the last one, as Optuna has it."""
    return curve[max(curve)] if result["status"] == "pruned" and curve else result["loss"]


def _storage(url: str) -> "RDBStorage":
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    # As another process sees it that makes the same tables at the same time.
    clashes = (IntegrityError, OperationalError, ProgrammingError, StorageInternalError)
    more = {"connect_args": {"timeout": 300}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # signs of life, in use since 2021
        for left in reversed(range(_OPENINGS)):
            try:
                return optuna.storages.RDBStorage(url, more, heartbeat_interval=_BEAT, grace_period=_GRACE)
            except clashes:
                if not left:
                    raise
                time.sleep(0.2)
    raise AssertionError


def _distribution(range_: Range, value: float) -> Any:
    import optuna

    return optuna.distributions.FloatDistribution(min(range_.low, value), max(range_.high, value), log=True)


@contextlib.contextmanager
def _beating(storage: "RDBStorage", trial: int) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT):
            storage.record_heartbeat(trial)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

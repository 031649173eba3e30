# SPDX-License-Identifier: Apache-2.0
"""What a study is: claims of a paper, and for each the condition that decides it, written down before measuring."""

import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from steepest.train import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How much a measurement may cost: seconds (run in CI), or minutes to an hour.
Budget = Literal["quick", "full"]
BUDGETS: tuple[Budget, ...] = ("quick", "full")

#: What a measurement returns: numbers, and lists, texts or dictionaries of them that a figure needs; JSON holds it.
Numbers = Mapping[str, Any]


@final
class Verdict(StrEnum):
    """What became of a claim."""

    HELD = "held"
    IN_PART = "held in part"
    NOT = "not held"
    UNTESTED = "not tested here"


def judge(held: bool, in_part: bool = False) -> Verdict:
    """Return the verdict of two conditions.

    Args:
        held: Whether the claim held.
        in_part: Whether it held in part, if it did not hold.

    Returns:
        `HELD`, `IN_PART` or `NOT`.

    Example:
        >>> judge(1.3 > 2.0, in_part=1.3 > 1.0).value
        'held in part'
    """
    return Verdict.HELD if held else Verdict.IN_PART if in_part else Verdict.NOT


@final
@dataclass(frozen=True)
class Paper:
    """Where the claims come from.

    Attributes:
        authors: As one cites them, "Shazeer" or "Liu, Zhou".
        title: The paper's title.
        year: Of publication.
        arxiv: Identifier at arXiv; empty if it is not there.
    """

    authors: str
    title: str
    year: int
    arxiv: str = ""


@final
@dataclass
class Run:
    """One run of a study: what its measurements may cost, and what they share.

    Attributes:
        budget: "quick" or "full".
        seed: Of everything random; each measurement makes its own generators from it.
        folder: Where parts of a long measurement are kept, so that an interrupted run goes on; None keeps nothing.
        tell: Called with a line of text after each part.
    """

    budget: Budget = "quick"
    seed: int = 0
    folder: Path | None = None
    tell: Callable[[str], None] = lambda _: None
    _parts: dict[str, Any] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """Whether seconds are all there is."""
        return self.budget == "quick"

    def once(self, name: str, function: Callable[[], Any]) -> Any:
        """Return what a function returns, computed once in a run however many claims ask for it.

        Args:
            name: Of this part, unique in the study; also its file's name in `folder`.
            function: Returns what JSON holds.

        Returns:
            Its result, after a round trip through JSON (tuples become lists, keys texts).
        """
        if name in self._parts:
            return self._parts[name]
        path = None if self.folder is None else self.folder / f"{name}.json"
        if path is not None and path.exists():
            self._parts[name] = files.read_json(path)["part"]
            return self._parts[name]
        part = json.loads(json.dumps(plain(function()), allow_nan=False))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {"part": part})
        self._parts[name] = part
        self.tell(name)
        return part


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: scalars of NumPy and torch as numbers, what is not finite as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@final
@dataclass(frozen=True)
class Claim:
    """One statement of a paper and what decides whether it held.

    Attributes:
        key: Short name in lower case, unique in the study.
        statement: What is claimed, in one sentence.
        number: The paper's number, or the number that follows from its formula.
        source: Where it stands: "Table 1", "abstract", "Theorem 3".
        condition: In words what `decide` checks, fixed before the measurement.
        measure: Takes the run, returns the numbers; honours `run.budget` and `run.seed`.
        decide: Takes the numbers as JSON gives them back, returns the verdict. It sees nothing else, so that a record
            can be judged again.
        ours: Format of the sentence that shows our numbers: "{radius:.7f} after {steps} steps".
        budgets: In which runs the claim is measured.
        untested: Why it is not measured in the other runs.
    """

    key: str
    statement: str
    number: str
    source: str
    condition: str
    measure: Callable[[Run], Numbers]
    decide: Callable[[Numbers], Verdict]
    ours: str
    budgets: tuple[Budget, ...] = BUDGETS
    untested: str = ""

    def __post_init__(self) -> None:
        if not set(self.budgets) <= set(BUDGETS):
            raise ValueError(f"budgets of the claim {self.key!r} are of {BUDGETS}, got {self.budgets}")
        if set(self.budgets) != set(BUDGETS) and not self.untested:
            raise ValueError(f"the claim {self.key!r} is measured in {self.budgets} only: say why in `untested`")


@final
@dataclass(frozen=True)
class Study:
    """Claims of one paper, measured with the library.

    Attributes:
        key: Name of the module that defines it.
        title: What it is about, in a few words.
        paper: Where the claims come from.
        question: The question that a reader has, one sentence ending in a question mark.
        idea: Markdown: the idea in about ten lines with its formula (`$...$` and `$$...$$`).
        code: Python that uses it from the public interface; it runs in CI.
        claims: At least one.
        draw: Takes the numbers of the claims that were measured (key to numbers) and returns a figure that is
            understood without the text; made with `steepest.studies.figure`.
        caption: What to see in the figure, one or two sentences.
        surprise: Markdown: what surprised, with numbers of the records only.
        benchmarks: Files of `benchmarks/results/` that the text refers to.
    """

    key: str
    title: str
    paper: Paper
    question: str
    idea: str
    code: str
    claims: tuple[Claim, ...]
    draw: Callable[[Mapping[str, Numbers]], "Figure"]
    caption: str
    surprise: str
    benchmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [claim.key for claim in self.claims]
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"the study {self.key!r} needs claims with keys of their own, got {keys}")

    @property
    def has_full(self) -> bool:
        """Whether there is more to measure than the quick run does."""
        return any("full" in claim.budgets for claim in self.claims)

    @property
    def digest(self) -> str:
        """Of the module's code above its figure and its text: kept parts that other code measured are not taken."""
        module = inspect.getmodule(self.claims[0].measure)
        text = "" if module is None else inspect.getsource(module)
        text = re.split(r"^(?:def _draw|STUDY\b)", text, maxsplit=1, flags=re.MULTILINE)[0]
        return hashlib.sha256(text.encode()).hexdigest()[:16]

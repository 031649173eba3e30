# SPDX-License-Identifier: Apache-2.0
"""Beginning in a folder, or going on from what it holds: one process, or all that hold shards."""

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.train.offload.gradients import Gradients
from steepest.train.offload.pieces import StateField
from steepest.train.offload.ranks import Ranks
from steepest.train.offload.store import TileStore

if TYPE_CHECKING:
    from steepest.train.offload.optimizer import Offload


def make_store(root: Path, ranks: Ranks, *, direct: bool | None, overwrite: bool) -> TileStore:
    """Return the store of this process in a folder; in all processes or in none.

    Args:
        root: The folder of the run.
        ranks: The processes.
        direct: See `TileStore`.
        overwrite: Remove stores of another number of processes.

    Raises:
        ValueError: If the folder holds the stores of another number of processes.
        OSError: If the folder cannot be used.
    """
    store = None
    try:
        with ranks.together():
            if ranks.rank == 0:
                _look_for_others(root, ranks, overwrite=overwrite)
            store = TileStore(ranks.folder(root), direct=direct)
    except BaseException:
        if store is not None:
            store.close()
        ranks.close()
        raise
    return store


def _look_for_others(root: Path, ranks: Ranks, *, overwrite: bool) -> None:
    own = f"rank-*-of-{ranks.world}" if ranks.sharded else "."
    journals = {*root.glob("journal.jsonl"), *root.glob("rank-*-of-*/journal.jsonl")}
    others = sorted(path.parent for path in journals - {*root.glob(f"{own}/journal.jsonl")})
    for folder in others if overwrite else ():
        store = TileStore(folder)
        store.close()
        store.remove()
    if others and not overwrite:
        there = (
            f"the shards of {others[0].name.rpartition('-of-')[2]} processes" if others[0] != root else "one process"
        )
        here = f"the shards of {ranks.world} processes" if ranks.sharded else "one process"
        raise ValueError(
            f"{root} holds the states of {there}, this run is {here}; continue with as many processes, or go on from a "
            "checkpoint, which any number can read, with overwrite=True"
        )


def begin(offload: "Offload", *, overwrite: bool) -> Gradients:
    """Begin with what is in memory.

    Args:
        offload: With a new store.
        overwrite: Also in a folder that holds steps.

    Returns:
        Where gradients go.

    Raises:
        ValueError: If the folder holds steps.
        OSError: If there is not enough room.
    """
    store, ranks, states = offload.store, offload.ranks, offload.states
    with ranks.together():
        found = store.committed()
        if found is not None and not overwrite:
            raise ValueError(
                f"{store.folder} holds a run after its step {store.step}: continue it with resume=True, or begin anew "
                "with overwrite=True"
            )
    store.forget()
    states.make()
    states.plan()
    gradients = offload.make_gradients()
    heading = {**_heading(offload), "fields": [piece.fields for piece in offload.pieces]}
    if ranks.sharded:
        heading["run"] = ranks.agree(uuid.uuid4().hex)[0]
    with ranks.together():
        store.open_new(heading)
    states.take_over()
    offload.commit(0)
    return gradients


def go_on(offload: "Offload") -> Gradients:
    """Go on after the last step that all processes have.

    Args:
        offload: With a new store.

    Returns:
        Where gradients go.

    Raises:
        ValueError: If the folder holds no step, or one of another optimizer.
        OSError: If the disk refuses, or a tile is damaged.
    """
    store, ranks, states = offload.store, offload.ranks, offload.states
    found: dict[str, Any] = {}
    with ranks.together():
        there = store.committed()
        if there is None:
            raise ValueError(f"{store.folder} holds no finished step to continue from; start with resume=False")
        found = there
        _check_heading(store.folder, found, _heading(offload))
    _agree_on_a_step(store, ranks, found)
    for piece, fields in zip(offload.pieces, found["fields"], strict=True):
        piece.fields = [StateField(f[0], f[1], f[2], tuple(f[3]), tuple(f[4]), f[5], f[6]) for f in fields]
    states.plan()
    gradients = offload.make_gradients()
    with ranks.together():
        store.open_existing()
        states.restore(store.note)
    offload.note = store.note["more"]
    return gradients


def _agree_on_a_step(store: TileStore, ranks: Ranks, found: dict[str, Any]) -> None:
    """Go back to what all processes have: one may have died between the others' commits and its own."""
    told = ranks.agree((found.get("run"), store.commits))
    if len({run for run, _ in told}) > 1:
        raise ValueError(f"{store.folder.parent} holds parts of different runs; begin anew with overwrite=True")
    least, most = min(count for _, count in told), max(count for _, count in told)
    if most > least + 1:
        raise ValueError(
            f"the stores in {store.folder.parent} are {most - least} steps apart, and each holds the last two: some "
            "were changed or brought back; continue from a checkpoint with overwrite=True"
        )
    with ranks.together():
        if store.commits > least:
            store.undo()


def _heading(offload: "Offload") -> dict[str, Any]:
    rules = [group["rule"] for group in offload.optimizer.param_groups]
    return {"pieces": [piece.describe() for piece in offload.pieces], "rules": rules}


def _check_heading(folder: Path, found: dict[str, Any], heading: dict[str, Any]) -> None:
    if found["rules"] != heading["rules"]:
        raise ValueError(f"{folder} holds the states of {found['rules']}, this optimizer has {heading['rules']}")
    there = [[piece["group"], *part] for piece in found["pieces"] for part in piece["parts"]]
    here = [[piece["group"], *part] for piece in heading["pieces"] for part in piece["parts"]]
    for one, two in zip(there, here, strict=False):
        if [list(v) if isinstance(v, tuple) else v for v in two] != one:
            raise ValueError(f"{folder} holds the state of {one}, this optimizer has {two} in its place")
    if len(there) != len(here):
        raise ValueError(f"{folder} holds {len(there)} pieces, this optimizer has {len(here)}")

# SPDX-License-Identifier: Apache-2.0
"""Random changes of a program: insert an operation, remove one, reconnect an operand, change an operation."""

from typing import Any

import numpy as np

from steepest.discover.program import OPERATIONS, Node, Program, canonical, expression

#: Insert, remove, reconnect, change: how often each is tried.
WEIGHTS = (2.0, 2.0, 3.0, 1.0)
_THRESHOLDS = np.cumsum(WEIGHTS)[:-1] / sum(WEIGHTS)
_TRIES = 50
#: Share of insertions that bring two operations.
_PAIRS = 0.25
#: Share of rows with large constants.
_WIDE = 0.25


def random_constant(rng: np.random.Generator) -> float:
    """Return a random sign times a random power of two, as `random_constants` draws them."""
    return float(random_constants(rng, 1, 1)[0, 0])


def random_constants(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return rows of constants: random signs times 2 to a power in [-8, 4], for a quarter of the rows in [-4, 12].

    Fits from small constants succeed more often: a continued fraction of order 2 for 2^x is found from one start in
    eighteen of [-8, 0], and from one in four hundred of [-4, 12]. Some programs need the large ones.
    """
    wide = rng.random((rows, 1)) < _WIDE
    exponents = np.where(wide, 4.0, 0.0) + rng.uniform(-8.0, 4.0 + 4.0 * wide, (rows, count))
    signs = rng.integers(2, size=(rows, count)) * 2.0 - 1.0
    return signs * np.exp2(exponents)


def mutate(program: Program, operations: tuple[str, ...], rng: np.random.Generator) -> Program:
    """Return a program that differs from the given one by a few random changes, in canonical form.

    Changes are repeated until the function changes; after 50 tries the last one is returned.

    Args:
        program: The parent.
        operations: What may be inserted.
        rng: All randomness.

    Returns:
        The child; new constants are random, the others those of the parent.

    Example:
        >>> parent = Program((("add", (1, 0)),), ((1.0, 0.0),))
        >>> child = mutate(parent, ("mul", "div"), np.random.default_rng(0))
        >>> child.functional_hash() != parent.functional_hash()
        True
    """
    before = program.functional_hash()
    child = program
    for _ in range(_TRIES):
        graph = _Graph(child if rng.random() < 0.3 else program)
        kind = np.searchsorted(_THRESHOLDS, rng.random(), side="right")
        (graph.insert, graph.remove, graph.reconnect, graph.change)[kind](operations, rng)
        changed = canonical(graph.expression())
        if not np.isfinite(changed.floats).all():
            continue  # folding two constants gave no number
        child = changed
        if child.instructions and child.functional_hash() != before:
            break
    return child


class _Graph:
    """A program as a list of [operation, operands...]; an operand is "x", a float or the place of another node."""

    def __init__(self, program: Program) -> None:
        self.nodes: list[list[Any]] = []
        places: dict[int, int] = {}

        def add(node: Node) -> Any:
            if not isinstance(node, tuple):
                return node
            if id(node) not in places:
                operands = [add(part) for part in node[1:]]
                places[id(node)] = len(self.nodes)
                self.nodes.append([node[0], *operands])
            return places[id(node)]

        self.root = add(expression(program))

    def expression(self) -> Node:
        built: dict[int, Node] = {}

        def build(node: Any) -> Node:
            if not isinstance(node, int):
                return node
            if node not in built:
                built[node] = (self.nodes[node][0], *(build(part) for part in self.nodes[node][1:]))
            return built[node]

        return build(self.root)

    def _reaches(self, start: Any, goal: int) -> bool:
        if not isinstance(start, int):
            return False
        return start == goal or any(self._reaches(part, goal) for part in self.nodes[start][1:])

    def _operand(self, user: int | None, rng: np.random.Generator) -> Any:
        """Return a random operand that does not depend on `user`."""
        kind = rng.random()
        if kind < 0.35:
            return random_constant(rng)
        allowed = [i for i in range(len(self.nodes)) if user is None or not self._reaches(i, user)]
        if kind < 0.55 or not allowed:
            return "x"
        return allowed[rng.integers(len(allowed))]

    def _edge(self, rng: np.random.Generator) -> tuple[int, int] | None:
        edges = [(i, j) for i, node in enumerate(self.nodes) for j in range(1, len(node))]
        return edges[rng.integers(len(edges))] if edges else None

    def insert(self, operations: tuple[str, ...], rng: np.random.Generator) -> None:
        name = operations[rng.integers(len(operations))]
        edge = None if rng.random() < 0.25 else self._edge(rng)
        user = None if edge is None else edge[0]
        old = self.root if edge is None else self.nodes[edge[0]][edge[1]]
        operands = [self._operand(user, rng) for _ in range(OPERATIONS[name])]
        at = int(rng.integers(len(operands)))
        operands[at] = old
        if len(operands) > 1 and rng.random() < _PAIRS:
            # Two operations at once: some improvements have no useful half.
            inner = operations[rng.integers(len(operations))]
            self.nodes.append([inner, *(self._operand(user, rng) for _ in range(OPERATIONS[inner]))])
            operands[(at + 1) % len(operands)] = len(self.nodes) - 1
        self.nodes.append([name, *operands])
        self._point(edge, len(self.nodes) - 1)

    def remove(self, operations: tuple[str, ...], rng: np.random.Generator) -> None:
        del operations
        if not self.nodes:
            return
        gone = int(rng.integers(len(self.nodes)))
        heir = self.nodes[gone][1 + rng.integers(len(self.nodes[gone]) - 1)]
        for node in self.nodes:
            node[1:] = [heir if isinstance(p, int) and p == gone else p for p in node[1:]]
        if self.root == gone:
            self.root = heir

    def reconnect(self, operations: tuple[str, ...], rng: np.random.Generator) -> None:
        del operations
        edge = self._edge(rng)
        if edge is not None:
            self.nodes[edge[0]][edge[1]] = self._operand(edge[0], rng)

    def change(self, operations: tuple[str, ...], rng: np.random.Generator) -> None:
        if not self.nodes:
            return
        at = int(rng.integers(len(self.nodes)))
        name = operations[rng.integers(len(operations))]
        operands = self.nodes[at][1:]
        rng.shuffle(operands)
        while len(operands) < OPERATIONS[name]:
            operands.append(self._operand(at, rng))
        self.nodes[at] = [name, *operands[: OPERATIONS[name]]]

    def _point(self, edge: tuple[int, int] | None, target: int) -> None:
        if edge is None:
            self.root = target
        else:
            self.nodes[edge[0]][edge[1]] = target

# SPDX-License-Identifier: Apache-2.0
"""Programs of one variable: small graphs of arithmetic operations over the input and constants."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Operation to number of operands. `square` is z z, `double` 2 z, `quadruple` 4 z, `half` z / 2, `quarter` z / 4.
OPERATIONS = {
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "fma": 3,
    "sqrt": 1,
    "square": 1,
    "double": 1,
    "quadruple": 1,
    "half": 1,
    "quarter": 1,
}
NAMES = tuple(OPERATIONS)
_COMMUTE = {"add", "mul", "fma"}
#: Each operation counts one.
COUNT: dict[str, float] = dict.fromkeys(OPERATIONS, 1.0)
#: Textbook count: a fused multiply-add is two operations.
TEXTBOOK: dict[str, float] = {**COUNT, "fma": 2.0}
#: Vector cycles relative to a multiplication's: division and square root do not overlap with their like.
PORT: dict[str, float] = {**COUNT, "div": 5.0, "sqrt": 6.0}
COSTS = {"count": COUNT, "textbook": TEXTBOOK, "port": PORT}


@dataclass(frozen=True)
class Program:
    """A straight-line program; the value of the last instruction is its result.

    Registers are numbered: 0 is the input, 1 to n the n constants, n + 1 and on the instructions' results.

    Attributes:
        instructions: Operation and operand registers, each register before its use.
        constants: Each the exact sum of two floats (the second is a correction below the first one's last bit).

    Raises:
        ValueError: For an unknown operation, a wrong number of operands, or a register that is not there yet.

    Example:
        >>> square_plus_one = Program((("square", (0,)), ("add", (2, 1))), ((1.0, 0.0),))
        >>> square_plus_one(np.array([3.0])).tolist()
        [10.0]
    """

    instructions: tuple[tuple[str, tuple[int, ...]], ...]
    constants: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for i, (name, operands) in enumerate(self.instructions):
            check_operation(name)
            if len(operands) != OPERATIONS[name]:
                raise ValueError(f"{name} has {OPERATIONS[name]} operands, got {len(operands)}")
            limit = 1 + len(self.constants) + i
            if any(not 0 <= r < limit for r in operands):
                raise ValueError(f"instruction {i} ({name}) reads a register outside 0..{limit - 1}: {operands}")

    def __call__(self, x: Any) -> Any:
        """Return the values at x, computed as numpy does in x's own dtype; fma rounds twice there."""
        kind = np.asarray(x).dtype.type
        with np.errstate(all="ignore"):
            return run(self, np.asarray(x), [kind(hi) + kind(lo) for hi, lo in self.constants])

    def cost(self, costs: Mapping[str, float] = COUNT) -> float:
        """Return the sum of the costs of all instructions (all contribute in a canonical program)."""
        return float(sum(costs[name] for name, _ in self.instructions))

    @property
    def key(self) -> str:
        """The structure as a short string, constants by their place; equal structures have equal keys."""
        text = ";".join(f"{name}{','.join(map(str, operands))}" for name, operands in self.instructions)
        return f"{len(self.constants)}|{text}"

    def functional_hash(self, interval: tuple[float, float] = (0.0, 1.0)) -> str:
        """Return a digest of the values at 64 fixed points, to 30 bits: equal for programs that compute the same."""
        x = np.linspace(*interval, 66)[1:-1]
        values = np.nan_to_num(np.broadcast_to(self(x), x.shape))
        fraction, exponent = np.frexp(values)
        digits = np.rint(np.ldexp(fraction, 30)).astype(np.int64), exponent.astype(np.int64)
        return hashlib.sha256(np.concatenate(digits).tobytes()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the program as JSON; constants in hexadecimal, nothing is lost."""
        lines = [[name, *operands] for name, operands in self.instructions]
        return {"instructions": lines, "constants": [[hi.hex(), lo.hex()] for hi, lo in self.constants]}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Program":
        """Return the program that `to_json` wrote.

        Raises:
            ValueError: If it is not a program.
        """
        try:
            lines = tuple((str(line[0]), tuple(int(r) for r in line[1:])) for line in value["instructions"])
            constants = tuple((float.fromhex(hi), float.fromhex(lo)) for hi, lo in value["constants"])
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                "a program is {'instructions': [[operation, register...]], 'constants': [[hex, hex]]}"
            ) from (error)
        return Program(lines, constants)

    def with_constants(self, values: Any) -> "Program":
        """Return the same structure with other constants (floats)."""
        return Program(self.instructions, tuple((float(v), 0.0) for v in values))

    @property
    def floats(self) -> np.ndarray:
        """The constants as float64, shape (constants,)."""
        return np.array([hi + lo for hi, lo in self.constants], dtype=np.float64)

    @property
    def code(self) -> np.ndarray:
        """The instructions as int64, shape (instructions, 4): operation's place in `NAMES`, three registers."""
        rows = [[NAMES.index(n), *o, *[0] * (3 - len(o))] for n, o in self.instructions]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)


def check_operation(name: str) -> None:
    """Raise ValueError, with the known names, unless `name` is an operation."""
    if name not in OPERATIONS:
        raise ValueError(f"{name!r} is no operation: choose from {', '.join(OPERATIONS)}")


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c,
    "sqrt": np.sqrt,
    "square": lambda a: a * a,
    "double": lambda a: a + a,
    "quadruple": lambda a: (a + a) + (a + a),
    "half": lambda a: a / 2,
    "quarter": lambda a: a / 4,
}


def run(
    program: Program, x: Any, constants: list[Any], arithmetic: Mapping[str, Callable[..., Any]] = ARITHMETIC
) -> Any:
    """Return the program's value at x, in whatever arithmetic the operands bring.

    Args:
        program: What to run.
        x: The input: an array, a number of any library.
        constants: The constants in the same arithmetic.
        arithmetic: Operation to function.

    Returns:
        The value of the last instruction, or x if there is none.

    Example:
        >>> run(Program((("mul", (0, 0)),)), 3, [])
        9
    """
    registers = [x, *constants]
    for name, operands in program.instructions:
        registers.append(arithmetic[name](*(registers[r] for r in operands)))
    return registers[-1] if program.instructions else x


# A graph under construction: "x", a constant as a float, or a tuple (operation, operand, ...). Tuples are shared.
Node = Any


def expression(program: Program) -> Node:
    """Return the program as nested tuples: "x", floats, and (operation, operand, ...)."""
    registers: list[Node] = ["x", *[hi + lo for hi, lo in program.constants]]
    for name, operands in program.instructions:
        registers.append((name, *(registers[r] for r in operands)))
    return registers[-1] if program.instructions else "x"


def canonical(node: Node) -> Program:
    """Return the canonical program of an expression.

    Only what contributes is kept and equal parts are computed once. Constants are folded, c - z and z - c become sums
    where a constant can be negated, division by a constant a multiplication, and chains of constants are joined;
    operands of commuting operations are ordered. Real numbers give the same function; rounding may differ.

    Args:
        node: Nested tuples as `expression` gives them.

    Returns:
        The program; its constants are numbered in the order of their first use.

    Example:
        >>> canonical(("add", ("mul", 2.0, 3.0), ("mul", "x", "x"))).instructions
        (('square', (0,)), ('add', (1, 2)))
    """
    seen: dict[int, Node] = {}
    root = _simplify(node, seen)
    constants: list[float] = []
    _gather(root, constants, set())
    registers: dict[Node, int] = {"x": 0}
    instructions: list[tuple[str, tuple[int, ...]]] = []
    first = 1 + len(constants)

    def place(part: Node) -> int:
        if isinstance(part, float):
            return 1 + constants.index(part)
        if part not in registers:
            operands = tuple(place(p) for p in part[1:])
            registers[part] = first + len(instructions)
            instructions.append((part[0], operands))
        return registers[part]

    if not isinstance(root, float):
        place(root)
    return Program(tuple(instructions), tuple((c, 0.0) for c in constants))


def _gather(node: Node, constants: list[float], done: set[int]) -> None:
    if isinstance(node, float):
        if node not in constants:
            constants.append(node)
    elif node != "x" and id(node) not in done:
        done.add(id(node))
        for part in node[1:]:
            _gather(part, constants, done)


def _simplify(node: Node, seen: dict[int, Node]) -> Node:
    if node == "x" or isinstance(node, float):
        return node
    if id(node) not in seen:
        name, *parts = node
        seen[id(node)] = _rewrite(name, [_simplify(part, seen) for part in parts])
    return seen[id(node)]


def _rewrite(name: str, parts: list[Node]) -> Node:
    numbers = [isinstance(p, float) for p in parts]
    if all(numbers):
        with np.errstate(all="ignore"):
            return float(ARITHMETIC[name](*map(np.float64, parts)))
    if name == "sub" and numbers[1]:
        name, parts = "add", [parts[0], -parts[1]]
    if name == "div" and numbers[1] and parts[1] != 0:
        name, parts = "mul", [parts[0], 1.0 / parts[1]]
    if name == "mul" and parts[0] == parts[1]:
        name, parts = "square", parts[:1]
    if name in ("add", "mul"):
        return _joined(name, parts)
    if name in _COMMUTE:
        parts[:2] = sorted(parts[:2], key=_order)
    return (name, *parts)


def _joined(name: str, parts: list[Node]) -> Node:
    first, second = sorted(parts, key=_order)
    if isinstance(first, float) and isinstance(second, tuple) and second[0] == name and isinstance(second[1], float):
        with np.errstate(all="ignore"):
            folded = np.float64(first) + second[1] if name == "add" else np.float64(first) * second[1]
        return (name, float(folded), second[2])
    return (name, first, second)


def _order(node: Node) -> tuple[int, str]:
    if isinstance(node, float):
        return 0, ""
    return (1, "x") if node == "x" else (2, _shape(node))


def _shape(node: Node) -> str:
    if isinstance(node, float):
        return "c"
    return "x" if node == "x" else f"{node[0]}({','.join(_shape(part) for part in node[1:])})"

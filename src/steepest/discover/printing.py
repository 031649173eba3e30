# SPDX-License-Identifier: Apache-2.0
"""A program as text: formula, Python, Numba kernel, C, LaTeX."""

import re
from collections.abc import Callable

import numpy as np

from steepest.discover.program import Program, expression

_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_STRENGTH = {"add": 1, "sub": 1, "mul": 2, "div": 2, "fma": 1}
_UNARY = {"double": "2 * {}", "quadruple": "4 * {}", "half": "{} / 2", "quarter": "{} / 4"}
_LINE = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in _BINARY.items()},
    "square": "{0} * {0}",
    "double": "{0} + {0}",
}


def formula(program: Program, digits: int = 6) -> str:
    """Return the program as one formula; what is used more than once is written out each time.

    Args:
        program: What to print.
        digits: Significant digits of constants.

    Returns:
        Text.

    Example:
        >>> formula(Program((("square", (0,)), ("add", (1, 2))), ((1.5, 0.0),)))
        '1.5 + x^2'
    """

    def text(node: object, above: int = 0) -> str:
        if isinstance(node, float):
            shown = f"{node:.{digits}g}"
            return f"({shown})" if node < 0 and above else shown
        if not isinstance(node, tuple):
            return "x"
        name, parts = node[0], node[1:]
        if name == "square":
            return f"{text(parts[0], 3)}^2"
        if name == "sqrt":
            return f"sqrt({text(parts[0])})"
        strength = _STRENGTH.get(name, 2)
        if name == "fma":
            inside = f"{text(parts[0], 2)} * {text(parts[1], 2)} + {text(parts[2], 1)}"
        elif name in _UNARY:
            inside = _UNARY[name].format(text(parts[0], 3))
        else:
            right = strength + (name in ("sub", "div"))
            inside = f"{text(parts[0], strength)} {_BINARY[name]} {text(parts[1], right)}"
        return f"({inside})" if above > strength or above == 3 else inside

    return text(expression(program))


def latex(program: Program, digits: int = 6) -> str:
    r"""Return the program as a LaTeX formula, without dollar signs.

    Args:
        program: What to print.
        digits: Significant digits of constants.

    Returns:
        Text.

    Example:
        >>> latex(Program((("div", (1, 0)),), ((1.5, 0.0),)))
        '\\frac{1.5}{x}'
    """

    def braced(node: object) -> str:
        simple = not isinstance(node, tuple) and not (isinstance(node, float) and node < 0)
        return text(node) if simple else rf"\left({text(node)}\right)"

    def text(node: object) -> str:
        if isinstance(node, float):
            return re.sub(r"e([+-])0*(\d+)", lambda m: rf" \cdot 10^{{{m[1].strip('+')}{m[2]}}}", f"{node:.{digits}g}")
        if not isinstance(node, tuple):
            return "x"
        name, parts = node[0], node[1:]
        if name == "sub":
            return f"{text(parts[0])} - {braced(parts[1])}"
        forms: dict[str, Callable[[], str]] = {
            "add": lambda: f"{text(parts[0])} + {text(parts[1])}",
            "mul": lambda: rf"{braced(parts[0])} \, {braced(parts[1])}",
            "div": lambda: rf"\frac{{{text(parts[0])}}}{{{text(parts[1])}}}",
            "fma": lambda: rf"{braced(parts[0])} \, {braced(parts[1])} + {text(parts[2])}",
            "sqrt": lambda: rf"\sqrt{{{text(parts[0])}}}",
            "square": lambda: rf"{braced(parts[0])}^2",
            "double": lambda: f"2 {braced(parts[0])}",
            "quadruple": lambda: f"4 {braced(parts[0])}",
            "half": lambda: rf"\frac{{{text(parts[0])}}}{{2}}",
            "quarter": lambda: rf"\frac{{{text(parts[0])}}}{{4}}",
        }
        return forms[name]()

    return text(expression(program)).replace("+ -", "- ")


def python(program: Program, name: str = "f") -> str:
    """Return a Python function in float64 that needs nothing but `math`.

    Args:
        program: What to print.
        name: Of the function.

    Returns:
        Source text; constants are written so that they are read back exactly.

    Example:
        >>> print(python(Program((("add", (1, 0)),), ((1.0, 0.0),))))
        import math
        <BLANKLINE>
        <BLANKLINE>
        def f(x):
            return 1.0 + x
        <BLANKLINE>
    """
    special = {"fma": "{0} * {1} + {2}", "sqrt": "math.sqrt({0})", "quadruple": "4.0 * {0}"}
    scales = {"half": "0.5 * {0}", "quarter": "0.25 * {0}"}
    lines = _lines(program, {**_LINE, **special, **scales}, repr, "    {} = {}", "    return {}")
    return f"import math\n\n\ndef {name}(x):\n" + "\n".join(lines) + "\n"


def numba_kernel(program: Program, name: str = "f") -> str:
    """Return a float32 device function for Numba, with fused multiply-adds as one instruction.

    Args:
        program: What to print; its constants are rounded to float32.
        name: Of the function.

    Returns:
        Source text; it imports `fma` and `sqrt` from `steepest.kernels`.

    Example:
        >>> print(numba_kernel(Program((("mul", (0, 0)),))).splitlines()[-1])
            return x * x
    """
    special = {"fma": "fma({0}, {1}, {2})", "sqrt": "sqrt({0})", "quadruple": "F32(4.0) * {0}"}
    scales = {"half": "F32(0.5) * {0}", "quarter": "F32(0.25) * {0}"}
    lines = _lines(
        program, {**_LINE, **special, **scales}, "F32({!r})".format, "    {} = {}", "    return {}", float32=True
    )
    modules = ("_llvm import fma, sqrt", "_registry import device")
    head = "import numpy as np\n\n" + "".join(f"from steepest.kernels.{module}\n" for module in modules)
    return f"{head}\nF32 = np.float32\n\n\n@device\ndef {name}(x):\n" + "\n".join(lines) + "\n"


def c(program: Program, name: str = "f", *, float32: bool = False) -> str:
    """Return a C function.

    Args:
        program: What to print.
        name: Of the function.
        float32: `float` instead of `double`.

    Returns:
        Source text; constants in hexadecimal.

    Example:
        >>> print(c(Program((("square", (0,)),))).splitlines()[-2])
            return x * x;
    """
    kind, end = ("float", "f") if float32 else ("double", "")
    special = {"fma": f"fma{end}({{0}}, {{1}}, {{2}})", "sqrt": f"sqrt{end}({{0}})", "quadruple": f"4.0{end} * {{0}}"}
    scales = {"half": f"0.5{end} * {{0}}", "quarter": f"0.25{end} * {{0}}"}

    def number(value: float) -> str:
        return value.hex() + end

    assign, give = f"    const {kind} {{}} = {{}};", "    return {};"
    lines = _lines(program, {**_LINE, **special, **scales}, number, assign, give, float32=float32)
    return f"#include <math.h>\n\n{kind} {name}({kind} x)\n{{\n" + "\n".join(lines) + "\n}\n"


def _lines(
    program: Program,
    forms: dict[str, str],
    number: Callable[[float], str],
    assign: str,
    give: str,
    *,
    float32: bool = False,
) -> list[str]:
    values = [hi + lo for hi, lo in program.constants]
    names = ["x", *[number(float(np.float32(v)) if float32 else v) for v in values]]
    lines = []
    for i, (operation, operands) in enumerate(program.instructions):
        text = forms[operation].format(*(names[r] for r in operands))
        if i == len(program.instructions) - 1:
            return [*lines, give.format(text)]
        names.append(f"t{i}")
        lines.append(assign.format(f"t{i}", text))
    return [give.format("x")]

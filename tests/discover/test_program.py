import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from steepest.discover import Program
from steepest.discover._interpreter import backward, forward
from steepest.discover.baselines import known_exp2, polynomial
from steepest.discover.mutate import mutate
from steepest.discover.printing import c, formula, latex, numba_kernel, python
from steepest.discover.program import COUNT, OPERATIONS, TEXTBOOK, canonical, expression

X = np.linspace(0.1, 0.9, 23)


def random_programs(count, operations=tuple(OPERATIONS)):
    rng = np.random.default_rng(0)
    program = polynomial([1.5, -0.75, 0.25])
    for _ in range(count):
        program = mutate(program, operations, rng)
        if len(program.instructions) > 12:
            program = polynomial([1.5, -0.75, 0.25])
        yield program


def test_canonical_form_is_a_fixed_point_and_keeps_the_function():
    for program in random_programs(300):
        again = canonical(expression(program))
        assert again == program
        assert len(program.instructions) <= 14


@pytest.mark.parametrize(
    ("node", "operations"),
    [
        (("add", ("mul", "x", "x"), ("mul", "x", "x")), ["square", "add"]),
        (("add", 1.0, ("add", 2.0, "x")), ["add"]),
        (("div", "x", 4.0), ["mul"]),
        (("sub", "x", 4.0), ["add"]),
        (("mul", ("add", 1.0, 2.0), "x"), ["mul"]),
        (("fma", "x", 2.0, 1.0), ["fma"]),
    ],
)
def test_simplified(node, operations):
    program = canonical(node)
    assert [name for name, _ in program.instructions] == operations

    def value(part, x):
        from steepest.discover.program import ARITHMETIC

        if not isinstance(part, tuple):
            return x if part == "x" else part
        return ARITHMETIC[part[0]](*(value(p, x) for p in part[1:]))

    np.testing.assert_allclose(program(X), value(node, X), rtol=1e-14)


def test_costs_are_sums():
    program = canonical(("fma", ("square", "x"), 2.0, ("add", "x", 1.0)))
    assert program.cost(COUNT) == 3
    assert program.cost(TEXTBOOK) == 4


def test_json_keeps_every_bit():
    for program in [known_exp2(), Program((), ()), *random_programs(20)]:
        assert Program.from_json(program.to_json()) == program


def test_compiled_values_and_derivatives():
    """The interpreter agrees with numpy, its derivatives with central differences in extended precision."""
    for program in random_programs(120):
        constants = program.floats
        if not np.isfinite(program(X)).all() or not len(constants):
            continue
        values = np.empty((1 + len(constants) + len(program.code), len(X)))
        jacobian, adjoint = np.empty((len(constants), len(X))), np.empty_like(values)
        forward(program.code, constants, X, values)
        np.testing.assert_array_equal(values[-1], np.broadcast_to(program(X), X.shape))
        backward(program.code, values, np.ones_like(X), adjoint, jacobian)
        for k, constant in enumerate(constants):
            h = 1e-6 * max(abs(constant), 1e-3)
            low, high = constants.copy(), constants.copy()
            low[k], high[k] = constant - h, constant + h
            numeric = (program.with_constants(high)(X) - program.with_constants(low)(X)) / (2 * h)
            size = np.abs(program(X)).max() * 1e-9 / h + np.abs(numeric).max() * 1e-3
            np.testing.assert_allclose(jacobian[k], numeric, atol=size + 1e-12)


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ((("cos", (0,)),), "no operation: choose from add"),
        ((("add", (0,)),), "2 operands"),
        ((("square", (1,)),), "outside"),
    ],
)
def test_what_cannot_run_is_refused(instructions, message):
    with pytest.raises(ValueError, match=message):
        Program(instructions)


def test_printed_python_computes_the_same():
    for program in [known_exp2(), *random_programs(40)]:
        scope: dict = {}
        exec(python(program), scope)  # the printed text is what is tested
        with np.errstate(all="ignore"):
            for x in (0.25, 0.7):
                want = float(program(np.float64(x)))
                try:
                    got = scope["f"](x)
                except (ZeroDivisionError, ValueError, OverflowError):
                    continue
                assert got == want or np.isnan(want)


def test_printed_formula_computes_the_same():
    for program in random_programs(40):
        text = formula(program, digits=17).replace("^2", "**2")
        with np.errstate(all="ignore"):
            got = eval(text, {"sqrt": np.sqrt, "x": X, "inf": np.inf, "nan": np.nan})
            np.testing.assert_allclose(got, program(X), rtol=1e-9, atol=1e-9)


def test_printed_kernel_compiles_and_rounds_in_float32():
    numba = pytest.importorskip("numba")
    scope: dict = {}
    program = polynomial([1.0, 0.6931472, 0.2402265])
    exec(numba_kernel(program), scope)
    f = numba.njit(scope["f"].py_func)
    want = program(X.astype(np.float32))
    np.testing.assert_allclose([f(x) for x in X.astype(np.float32)], want, rtol=3e-7)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_printed_c_computes_the_same(tmp_path):
    source, built = tmp_path / "f.c", tmp_path / "f.so"
    source.write_text(c(known_exp2()))
    subprocess.run(["cc", "-O1", "-ffp-contract=off", "-shared", "-fPIC", source, "-o", built, "-lm"], check=True)
    f = ctypes.CDLL(str(built)).f
    f.restype, f.argtypes = ctypes.c_double, [ctypes.c_double]
    assert [f(x) for x in X] == known_exp2()(X).tolist()


def test_latex():
    assert latex(canonical(("div", -1.5, ("sqrt", ("add", "x", 1e-20))))) == (
        r"\frac{-1.5}{\sqrt{1 \cdot 10^{-20} + x}}"
    )

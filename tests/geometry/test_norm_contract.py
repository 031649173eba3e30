"""The laws of a norm, over every norm that `steepest.geometry` exports."""

import dataclasses
import math
import re
from typing import ClassVar

import pytest
import torch

import steepest.geometry as geometry
from steepest.geometry import Norm
from tests.reference import norms as reference

# Exported norms are found, not listed; a norm with a required field needs examples here, and a test says so.
NEEDS_ARGUMENTS: dict[str, list[Norm]] = {
    "Schatten": [geometry.Schatten(p) for p in (1.0, 1.5, 2.0, 4.0, math.inf)],
    "Scaled": [geometry.Scaled(geometry.RMSToRMS(), 2.5), geometry.Scaled(geometry.Sign(dims=1), 0.1)],
    "Transposed": [geometry.Transposed(geometry.L1ToRMS()), geometry.Transposed(geometry.RMSToRMS())],
}
MORE: list[Norm] = [
    geometry.Frobenius(dims=1),
    geometry.RMS(dims=3),
    geometry.RowNorm(rms=True),
    geometry.ColumnNorm(rms=True),
    geometry.SpectralConv(kernel_dims=1),
    geometry.TapConv(kernel_dims=1),
]
CLASSES = [
    value
    for value in (getattr(geometry, name) for name in geometry.__all__)
    if isinstance(value, type) and issubclass(value, Norm) and value is not Norm
]


def examples() -> list[Norm]:
    found: list[Norm] = []
    for kind in CLASSES:
        found += NEEDS_ARGUMENTS.get(kind.__name__) or [kind()]
    return found + MORE


def label(norm: Norm) -> str:
    """Return a name that is the same in every process, unlike the address of a function."""
    return re.sub(r"<function (\w+) at \w+>", r"\1", str(norm))


EXAMPLES = examples()
SHAPES = {"tall": (7, 4), "wide": (3, 8), "square": (5, 5), "row": (1, 6), "column": (6, 1), "one": (1, 1)}
every_norm = pytest.mark.parametrize("norm", EXAMPLES, ids=label)


def element_shape(norm: Norm, m: int, n: int) -> tuple[int, ...]:
    dims = norm.element_dims
    return (m * n,) if dims == 1 else (m, n) + (3,) * (dims - 2)


def elements(norm: Norm, seed: int = 0, batch: tuple[int, ...] = (2,), dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Random batches of every shape, and rank-deficient and zero ones."""
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    found = {name: gaussian(*batch, *element_shape(norm, *shape)) for name, shape in SHAPES.items()}
    shape = element_shape(norm, 6, 5)
    columns = math.prod(shape[1:])
    found["rank-one"] = (gaussian(*batch, shape[0], 1) @ gaussian(*batch, 1, columns)).reshape(*batch, *shape)
    found["rank-two"] = (gaussian(*batch, shape[0], 2) @ gaussian(*batch, 2, columns)).reshape(*batch, *shape)
    found["zero"] = torch.zeros(*batch, *shape, dtype=torch.float64)
    found["zero row"] = gaussian(*batch, *shape)
    found["zero row"][..., 0] = 0
    return {name: value.to(dtype) for name, value in found.items()}


def inner(norm: Norm, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() * b.double()).flatten(a.ndim - norm.element_dims).sum(-1)


def per_element(norm: Norm, function, x: torch.Tensor) -> torch.Tensor:
    flat = x.double().flatten(0, x.ndim - norm.element_dims - 1)
    values = torch.tensor([float(function(norm, element.numpy())) for element in flat], dtype=torch.float64)
    return values.reshape(x.shape[: x.ndim - norm.element_dims])


def has_projection(norm: Norm) -> bool:
    return not (isinstance(norm, geometry.Schatten) and norm.p not in (1.0, 2.0, math.inf))


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every_norm
def test_norm_and_dual_equal_the_float64_reference(norm, dtype):
    # The input is rounded first, so only the arithmetic is measured: half precision must do as well as float32.
    tol = TOLERANCE[torch.float32 if dtype.itemsize == 2 else dtype]
    for name, x in elements(norm, dtype=dtype).items():
        for ours, function in ((norm.norm, reference.norm), (norm.dual, reference.dual)):
            got, want = ours(x), per_element(norm, function, x)
            assert got.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
            torch.testing.assert_close(got.double(), want, rtol=tol, atol=tol * 1e-3, msg=f"{norm} {name} {ours}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every_norm
def test_lmo_lies_in_the_ball_and_reaches_minus_the_dual(norm, dtype):
    tol = TOLERANCE[dtype]
    for name, g in elements(norm, 1, dtype=dtype).items():
        step = norm.lmo(g)
        assert step.shape == g.shape
        assert step.dtype == dtype
        size, dual = per_element(norm, reference.norm, step), per_element(norm, reference.dual, g)
        assert (size <= 1 + tol).all(), f"{norm} {name}: norm {size}"
        torch.testing.assert_close(inner(norm, g, step), -dual, rtol=tol, atol=tol * 1e-3, msg=f"{norm} {name}")


@every_norm
def test_lmo_of_zero_is_zero(norm):
    g = elements(norm)["zero"]
    assert (norm.lmo(g) == 0).all()
    assert (norm.norm(g) == 0).all()
    assert (norm.dual(g) == 0).all()


@every_norm
def test_no_random_or_nearby_point_of_the_ball_beats_the_lmo(norm):
    # The ball is convex and the objective linear, so a point that no neighbour beats is a minimizer.
    generator = torch.Generator().manual_seed(2)
    for name, g in elements(norm, 3).items():
        best = norm.lmo(g)
        for spread in (0.0, 1e-3, 1e-1):
            noise = torch.randn((200, *g.shape), generator=generator, dtype=g.dtype)
            points = noise if spread == 0 else best + spread * best.abs().amax().clamp(min=1) * noise
            points = points / norm.norm(points).reshape(200, *g.shape[:1], *(1,) * norm.element_dims)
            reached = inner(norm, g.expand_as(points), points)
            assert (reached >= inner(norm, g, best) - 1e-10).all(), f"{norm} {name} {spread}"


@every_norm
def test_hoelder_inequality(norm):
    for (name, x), g in zip(elements(norm, 4).items(), elements(norm, 5).values(), strict=True):
        assert (inner(norm, x, g).abs() <= norm.norm(x) * norm.dual(g) * (1 + 1e-10)).all(), f"{norm} {name}"


@every_norm
def test_triangle_inequality_and_homogeneity(norm):
    for x, y in zip(elements(norm, 6).values(), elements(norm, 7).values(), strict=True):
        assert (norm.norm(x + y) <= (norm.norm(x) + norm.norm(y)) * (1 + 1e-10)).all()
        torch.testing.assert_close(norm.norm(-3 * x), 3 * norm.norm(x))


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
@every_norm
def test_scale_far_from_one_changes_nothing_in_float32(norm, scale):
    for name, g in elements(norm, 8, dtype=torch.float32).items():
        # A power of two is exact, so even the choice among nearly equal directions must not move.
        torch.testing.assert_close(norm.lmo(g * scale), norm.lmo(g), rtol=1e-5, atol=1e-6, msg=f"{norm} {name}")
        torch.testing.assert_close(norm.norm(g * scale) / scale, norm.norm(g), rtol=1e-5, atol=0)
        torch.testing.assert_close(norm.dual(g * scale) / scale, norm.dual(g), rtol=1e-5, atol=0)


@every_norm
def test_batch_equals_loop(norm):
    for name, g in elements(norm, 9, batch=(2, 3)).items():
        for function in (norm.norm, norm.dual, norm.lmo, *((norm.project,) if has_projection(norm) else ())):
            alone = torch.stack([torch.stack([function(one) for one in row]) for row in g])
            torch.testing.assert_close(function(g), alone, rtol=1e-10, atol=1e-12, msg=f"{norm} {name} {function}")


@every_norm
def test_empty_batch_is_allowed(norm):
    g = torch.zeros(0, *element_shape(norm, 3, 2))
    assert norm.norm(g).shape == (0,)
    assert norm.lmo(g).shape == g.shape


@every_norm
def test_input_is_untouched_and_storage_order_does_not_matter(norm):
    for g in elements(norm, 10, batch=(2, 2)).values():
        kept = g.clone()
        strided = g.transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(norm.lmo(strided), norm.lmo(g), rtol=1e-12, atol=1e-12)
        norm.norm(g), norm.dual(g)
        assert torch.equal(g, kept)


@every_norm
def test_projection_is_the_nearest_point_of_the_ball(norm):
    generator = torch.Generator().manual_seed(11)
    if not has_projection(norm):
        with pytest.raises(NotImplementedError, match="no closed-form projection"):
            norm.project(elements(norm)["tall"])
        return
    for name, x in elements(norm, 12).items():
        near = norm.project(x)
        assert (norm.norm(near) <= 1 + 1e-10).all(), f"{norm} {name}"
        torch.testing.assert_close(norm.project(near), near, rtol=1e-9, atol=1e-12)
        inside = x / norm.norm(x).clamp(min=1e-9).reshape(-1, *(1,) * norm.element_dims) * 0.9
        assert torch.equal(norm.project(inside), inside)
        # <x - Px, y - Px> <= 0 for every y of the ball characterizes the nearest point; its LMO gives the worst y.
        others = torch.randn((50, *x.shape), generator=generator, dtype=x.dtype)
        others = others / norm.norm(others).reshape(50, -1, *(1,) * norm.element_dims)
        for y in (*others, norm.lmo(near - x)):
            assert (inner(norm, x - near, y - near) <= 1e-9 * (1 + inner(norm, x, x))).all(), f"{norm} {name}"


@every_norm
def test_nan_propagates_within_its_element_only(norm):
    g = elements(norm, 13)["wide"].float()
    clean = norm.lmo(g)[1]
    g[0].view(-1)[1] = float("nan")
    assert norm.norm(g).isnan().tolist() == [True, False]
    assert norm.dual(g).isnan().tolist() == [True, False]
    step = norm.lmo(g)
    assert step[0].isnan().any()
    torch.testing.assert_close(step[1], clean)
    if has_projection(norm):
        assert norm.project(g)[0].isnan().any()
        assert not norm.project(g)[1].isnan().any()


@every_norm
def test_infinity_gives_an_infinite_norm(norm):
    g = elements(norm, 14)["wide"].float()
    g[0].view(-1)[1] = float("inf")
    assert norm.norm(g).isinf().tolist() == [True, False]


@pytest.mark.parametrize("method", ["norm", "dual", "lmo", "project"])
@every_norm
def test_wrong_input_is_refused_with_the_reason(norm, method):
    call = getattr(norm, method)
    shape = element_shape(norm, 3, 2)
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="is defined for float16"):
            call(torch.zeros(shape, dtype=dtype))
    with pytest.raises(TypeError, match=r"needs a torch\.Tensor"):
        call([[1.0]])
    with pytest.raises(ValueError, match="empty element"):
        call(torch.zeros(*shape[:-1], 0))
    with pytest.raises(ValueError, match="dimension"):
        call(torch.zeros(shape[:-1]))


@every_norm
def test_norms_are_frozen_final_hashable_and_documented(norm):
    kind = type(norm)
    assert dataclasses.is_dataclass(norm)
    assert getattr(kind, "__final__", False)
    assert kind.__doc__ is not None
    assert "Example:" in kind.__doc__
    assert hash(norm) == hash(dataclasses.replace(norm))
    assert norm == dataclasses.replace(norm)
    with pytest.raises(dataclasses.FrozenInstanceError):
        norm.anything = 1


class TestInvariance:
    rotation_invariant: ClassVar = [
        geometry.Frobenius(),
        geometry.RMS(),
        geometry.Spectral(),
        geometry.RMSToRMS(),
        geometry.Nuclear(),
    ] + NEEDS_ARGUMENTS["Schatten"]

    @pytest.mark.parametrize("norm", rotation_invariant, ids=label)
    def test_rotating_either_side(self, norm):
        for name, g in elements(norm, 15).items():
            left, right = (geometry.exact_polar(torch.randn(k, k, dtype=g.dtype)) for k in g.shape[-2:])
            torch.testing.assert_close(norm.norm(left @ g @ right), norm.norm(g), rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(
                norm.lmo(left @ g @ right), left @ norm.lmo(g) @ right, rtol=1e-8, atol=1e-8, msg=f"{norm} {name}"
            )

    unscaled: ClassVar = [norm for norm in rotation_invariant if not isinstance(norm, geometry.RMSToRMS)]

    @pytest.mark.parametrize("norm", [*unscaled, geometry.Sign(), geometry.L1()], ids=label)
    def test_transposing(self, norm):
        for g in elements(norm, 16).values():
            torch.testing.assert_close(norm.norm(g.mT), norm.norm(g), rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(norm.lmo(g.mT), norm.lmo(g).mT, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("norm", [geometry.RowNorm(), geometry.RMSToInf(), geometry.RowNorm(rms=True)], ids=label)
    def test_row_norms_do_not_see_a_rotation_of_the_inputs(self, norm):
        for g in elements(norm, 17).values():
            right = geometry.exact_polar(torch.randn(g.shape[-1], g.shape[-1], dtype=g.dtype))
            torch.testing.assert_close(norm.norm(g @ right), norm.norm(g))
            torch.testing.assert_close(norm.lmo(g @ right), norm.lmo(g) @ right)


def test_every_exported_norm_has_an_example():
    assert {type(norm).__name__ for norm in EXAMPLES} == {kind.__name__ for kind in CLASSES}
    assert len(CLASSES) >= 16

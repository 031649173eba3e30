import numpy as np
import pytest
import torch

from steepest.geometry.certify import certify, compose
from steepest.geometry.design import design_iteration, with_safety
from steepest.geometry.polar_coefficients import PUBLISHED
from steepest.geometry.polar_iteration import PolarIteration, published_iteration
from steepest.geometry.polar_steps import iterate

BFLOAT16 = 2.0**-8

#: Smallest and largest value out and rms on [1e-3, 1], and slope, as measured by others on these lists.
MEASURED = {
    "muon": (0.471, 1.202, 0.211, 485),
    "muon-tuned": (0.475, 1.145, 0.123, 493),
    "modula": (0.866, 0.999, 0.018, 1137),
    "polar-express-safe": (0.859, 1.141, 0.094, 989),
    "cans": (0.884, 1.120, 0.080, 1049),
    "muon-then-newton-schulz": (1.000, 1.002, 0.000, 79263),
}


def rows_of(name):
    entry = PUBLISHED[name]
    return entry.coefficients * 5 if entry.steps == "repeat" else entry.coefficients


@pytest.mark.parametrize("name", MEASURED)
def test_certificate_agrees_with_what_others_measured(name):
    low, high, rms, slope = MEASURED[name]
    found = certify(rows_of(name))
    assert (found.min_out, found.max_out) == pytest.approx((low, high), abs=6e-4)
    assert found.rms == pytest.approx(rms, abs=6e-4)
    assert found.slope == pytest.approx(slope, abs=0.6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_million_singular_values_stay_inside_and_the_ends_are_reached(name):
    entry = PUBLISHED[name]
    found = certify(rows_of(name), interval=entry.interval)
    x = np.exp(np.random.default_rng(0).uniform(*np.log(entry.interval), 1_000_000))
    y = compose(rows_of(name), x)
    assert found.min_out <= y.min()
    assert y.max() <= found.max_out
    assert np.abs(1 - y).max() <= found.error
    # Exact, not just a bound: some of a million points come near both ends.
    below = compose(rows_of(name), np.geomspace(1e-7, entry.interval[1], 1_000_000))
    assert below.min() > 0
    assert below.max() <= found.max_out
    span = found.max_out - found.min_out
    assert y.min() - found.min_out < 0.01 * span + 1e-9
    assert found.max_out - below.max() < 0.01 * span + 1e-9


def test_random_compositions_that_do_flip_signs_are_bounded_too():
    generator = np.random.default_rng(1)
    for _ in range(200):
        rows = [(generator.uniform(1, 4), generator.uniform(-5, 0), generator.uniform(0, 2)) for _ in range(2)]
        found = certify(rows, interval=(0.05, 1.0))
        y = compose(rows, np.linspace(0.05, 1, 5001))
        assert found.min_out <= y.min()
        assert y.max() <= found.max_out
        flips = compose(rows, np.linspace(1e-4, 1, 20001)).min() <= 0
        reason = any("sign can flip" in reason for reason in found.reasons)
        # A zero in the first step may be hidden between points of the grid only when it is a touch.
        assert reason or not flips


def test_a_repeated_first_triple_is_refused():
    rows = rows_of("muon-tuned")
    found = certify([*rows, rows[0]])
    assert not found.accepted
    assert found.min_out < 0.17
    with pytest.raises(ValueError, match="made for 5 steps"):
        published_iteration("muon-tuned", 6)
    with pytest.raises(ValueError, match="refused"):
        PolarIteration((*rows, rows[0]))


@pytest.mark.parametrize("normalization", ["frobenius", "aol"])
def test_aol_coefficients_that_reach_one_are_refused(normalization):
    rows = rows_of("aol")
    found = certify(rows, normalization=normalization)
    assert "a sign can flip" in found.reasons[0]
    assert found.min_out == pytest.approx(-1.084, abs=1e-3)
    with pytest.raises(ValueError, match="a sign can flip"):
        PolarIteration(rows, normalization)  # pyright: ignore[reportArgumentType]
    # A matrix of rank one is the proof: it comes out with the other sign, also under the column scaling itself.
    x = torch.outer(torch.linspace(1, 2, 6), torch.linspace(1, 3, 9))[None].double()
    y = iterate(x.clone(), rows, normalization, upper=1.0, restart=1)
    assert (x * y).sum() < -0.9 * x.norm()
    safe = published_iteration("aol", normalization=normalization)(x)  # pyright: ignore[reportArgumentType]
    assert (x * safe).sum() > 0.8 * x.norm()


def test_reasons_name_divergence_and_dropped_directions():
    assert "diverges" in certify([(4.0, 0.0, 3.0)] * 3).reasons[0]
    assert "error" in certify([(1.5, -0.5)] * 5).reasons[0]
    assert "sign can flip" in certify([(-1.5, 0.5)]).reasons[0]
    assert certify([(3.4445, -4.7750, 2.0315)] * 5).accepted


def rank_one_matrices():
    generator = torch.Generator().manual_seed(0)
    for n in (*range(1, 40), 64):
        yield torch.ones(n, n)
        yield torch.ones(n, 2 * n)
        yield torch.eye(n)
        yield torch.block_diag(torch.ones(n, n), 0.9 * torch.ones(n, n))
        yield torch.outer(torch.randn(n, generator=generator), torch.randn(n, generator=generator))
    for n in (100, 200):
        yield torch.randn(n, n, generator=generator)
        yield torch.randn(n, 3 * n, generator=generator)


@pytest.mark.parametrize(
    "name", ["muon", "muon-tuned", "modula", "polar-express-safe", "designed-short", "designed-4", "designed-5"]
)
def test_bfloat16_stays_inside_the_certificate(name):
    rows = rows_of(name)
    found = certify(rows, eps=BFLOAT16, tol=0.999).require()
    for x in rank_one_matrices():
        start = (x / x.norm()).bfloat16()[None]
        out = torch.linalg.svdvals(iterate(start.clone(), rows, "frobenius", upper=1.0, restart=1).double())
        assert out.max() <= found.max_out
        top_in = torch.linalg.svdvals(start.double())[0, 0]
        assert out[0, 0] >= found.min_out or top_in < 0.05


@pytest.mark.parametrize("name", ["muon", "designed-short", "designed-4", "designed-5"])
def test_bfloat16_scaled_by_its_own_products_stays_inside_too(name):
    iteration = published_iteration(name, normalization="schatten8", dtype=torch.bfloat16)
    for x in (*rank_one_matrices(), torch.ones(448, 460), torch.ones(500, 500), torch.eye(460)):
        out = torch.linalg.matrix_norm(iteration(x).double(), 2)
        assert out <= iteration.certificate.max_out
        assert (x * iteration(x)).sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "polar-express", "designed-short", "designed-4", "designed-5"])
def test_the_singular_values_of_a_million_random_matrices_stay_inside(name):
    iteration = published_iteration(name)
    found, generator = iteration.certificate, torch.Generator().manual_seed(0)
    for part in range(20):
        x = torch.randn(50_000, 3, 4, generator=generator)
        # Singular values of every size: columns and rows scaled by up to e^6.
        x *= torch.randn(50_000, 1, 4, generator=generator).mul(part % 4).exp()
        values = torch.linalg.svdvals(iteration(x))
        assert values.max() <= found.max_out + 1e-5
        before = torch.linalg.svdvals(x.double())
        order = 8 if iteration.normalization == "schatten8" else 2
        scaled = before / torch.linalg.vector_norm(before, order, dim=-1, keepdim=True) * iteration.interval[1]
        inside = scaled[:, -1] >= iteration.interval[0] * 1.01
        assert values[inside, -1].min() >= found.min_out - 1e-4
        assert inside.any()


def test_degree_nine_is_refused_in_bfloat16_where_it_does_break():
    rows = design_iteration("gradient", steps=3, degree=(5, 9, 5), safety=1.02).coefficients
    assert certify(rows, tol=0.999).accepted
    assert not certify(rows, tol=0.999, eps=BFLOAT16).accepted
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    start = (x / torch.linalg.matrix_norm(x, 2)).bfloat16()[None]
    broken = iterate(start.clone(), rows, "schatten8", upper=1.0, restart=1)
    fine = iterate(start.float(), rows, "schatten8", upper=1.0, restart=1)
    assert torch.linalg.matrix_norm(fine - broken.float(), 2) > 0.5


@pytest.mark.parametrize(("name", "steps"), [("polar-express", 6), ("cans", 5)])
def test_lists_without_safety_overflow_in_bfloat16_and_are_refused_there(name, steps):
    rows = rows_of(name)[:steps]
    found = certify(rows, eps=BFLOAT16)
    assert any("diverges" in reason for reason in found.reasons)
    outs = [
        iterate((x / x.norm()).bfloat16()[None], rows, "frobenius", upper=1.0, restart=1) for x in rank_one_matrices()
    ]
    assert not all(bool(out.isfinite().all()) for out in outs)
    with pytest.raises(ValueError, match="diverges"):
        published_iteration(name, steps, dtype=torch.bfloat16)
    if name == "polar-express":  # the first row of the other touches zero however it is scaled
        assert certify(with_safety(rows, 1.02), eps=BFLOAT16).accepted


@pytest.mark.parametrize(
    "arguments",
    [
        {"coefficients": []},
        {"coefficients": [()]},
        {"coefficients": [(1.0, float("nan"))]},
        {"normalization": "max"},
        {"interval": (0.0, 1.0)},
        {"interval": (1.0, 0.5)},
        {"eps": -1.0},
        {"tol": 1.5},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"expected|must be"):
        certify(**{"coefficients": [(1.5, -0.5)], **arguments})

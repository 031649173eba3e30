import pytest
import torch

from steepest.geometry.polar import choose_method, polar_factor
from steepest.geometry.polar_coefficients import PUBLISHED
from steepest.geometry.polar_iteration import PolarIteration, published_iteration
from steepest.geometry.polar_rates import Rates, fixed_rates

#: Far from this machine, so that no test measures anything: slow factorizations, fast bfloat16.
RATES = Rates(*[(1e-5, 4e-4, 1e-2)] * 2, (1e-5, 2e-4, 5e-3), *[(3e-4, 1e-2, 2e-1)] * 4)
SHAPES = [(5, 5), (3, 12), (12, 3), (1, 7), (7, 1), (1, 1), (33, 47), (2, 3, 8, 6), (0, 4, 4)]
METHODS = ["svd", "eigh", "auto"]


@pytest.fixture(autouse=True)
def known_machine():
    with fixed_rates(RATES):
        yield


def reference(x):
    """Return the partial isometry of the float64 SVD."""
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    tiny = max(x.shape[-2:]) * torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return (u * (s > tiny * s[..., :1])[..., None, :]) @ vh


def with_spectrum(m, n, values):
    k = min(m, n)
    u = torch.linalg.qr(torch.randn(m, k, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64)).Q
    return (u * torch.as_tensor(values, dtype=torch.float64)) @ v.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_exact_methods_equal_the_float64_svd(method, shape, dtype):
    x = torch.randn(shape).to(dtype)
    before = x.clone()
    out = polar_factor(x, method=method)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert torch.equal(x, before)
    bound = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(out.double(), reference(x), atol=bound, rtol=0)


@pytest.mark.parametrize("shape", [(60, 60), (40, 150)])
def test_eigh_is_no_worse_than_twice_the_svd_on_ill_conditioned_input(shape):
    x = with_spectrum(*shape, torch.logspace(-3, 0, min(shape))).float()
    errors = {method: (polar_factor(x, method=method) - reference(x)).norm() for method in ("svd", "eigh")}
    assert errors["eigh"] <= 2 * errors["svd"]


@pytest.mark.parametrize("method", METHODS)
def test_rank_deficient_and_zero(method):
    x = torch.randn(20, 3) @ torch.randn(3, 30)
    out = polar_factor(x, method=method)
    torch.testing.assert_close(out.double(), reference(x), atol=2e-5, rtol=0)
    values = torch.linalg.svdvals(out)
    assert values[:3].sub(1).abs().max() < 1e-5
    assert values[3:].max() < 1e-5
    mixed = torch.stack([torch.zeros(4, 6), torch.randn(4, 6)])
    assert torch.equal(polar_factor(mixed, method=method)[0], torch.zeros(4, 6))


ITERATIONS = [
    published_iteration("polar-express"),
    published_iteration("polar-express", 6, restart=3),
    published_iteration("designed-4", normalization="schatten4"),
    published_iteration("designed-5", dtype=torch.bfloat16),
    published_iteration("designed-short"),
    published_iteration("designed-3"),
    published_iteration("muon", normalization="spectral-bound"),
    published_iteration("cubic"),
    published_iteration("newton-schulz-cubic", 12),
]


@pytest.mark.parametrize("iteration", ITERATIONS, ids=lambda i: f"{i.name}-{i.normalization}-{i.dtype}-{i.restart}")
@pytest.mark.parametrize("shape", [(24, 24), (16, 50), (50, 16), (3, 10, 12)])
def test_iterations_send_every_singular_value_into_the_certificate(iteration, shape):
    m, n = shape[-2:]
    values = torch.logspace(0, -0.7, min(m, n))
    x = with_spectrum(m, n, values).float().expand(shape)
    out = iteration(x)
    inside = torch.linalg.svdvals(out.double())
    slack = 0.02 if iteration.dtype == torch.bfloat16 else 1e-4
    assert inside.max() <= iteration.certificate.max_out + slack
    # No scaling makes the smallest singular value smaller than the Frobenius norm does.
    if values.min() / values.norm() > iteration.interval[0]:
        assert inside.min() >= iteration.certificate.min_out - slack
    # Singular vectors are kept and no sign is flipped: X^T out is symmetric and positive.
    product = x.mT.double() @ out.double()
    assert (product - product.mT).abs().max() <= slack
    assert torch.linalg.eigvalsh((product + product.mT) / 2).min() > -slack


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_iterations_apply_their_scalar_polynomial(name):
    if PUBLISHED[name].normalization == "aol":
        pytest.skip("row scaling moves the singular vectors; its own test is below")
    from steepest.geometry.certify import compose

    iteration = published_iteration(name, normalization="frobenius")
    values = torch.logspace(-2, 0, 20, dtype=torch.float64)
    x = with_spectrum(20, 31, values)
    out = torch.linalg.svdvals(iteration(x)).sort().values
    scaled = values / values.norm() * iteration.interval[1]
    expected = torch.from_numpy(compose(iteration.coefficients, scaled.numpy())).sort().values
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


def test_aol_is_the_polynomial_of_the_scaled_matrix():
    from steepest.geometry.certify import compose

    x = torch.randn(9, 14, dtype=torch.float64)
    iteration = published_iteration("aol")
    scaled = x * iteration.interval[1] * (x @ x.T).abs().sum(1, keepdim=True).rsqrt()
    assert torch.linalg.matrix_norm(scaled, 2) <= iteration.interval[1]
    u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
    expected = (u * torch.from_numpy(compose(iteration.coefficients, s.numpy()))) @ vh
    torch.testing.assert_close(iteration(x), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("normalization", ["frobenius", "schatten4", "schatten8", "spectral-bound"])
@pytest.mark.parametrize("values", [[1.0] * 30, [1.0] + [1e-3] * 29, torch.logspace(-4, 0, 30), torch.rand(30)])
def test_normalizations_are_upper_bounds_and_the_later_ones_are_tighter(normalization, values):
    # One linear step shows the scaled matrix itself.
    x = with_spectrum(30, 40, values)
    linear = PolarIteration(((1.0, 0.0),), normalization, (1e-6, 1.0), tol=0.9999999)
    top = torch.linalg.svdvals(linear(x))[0]
    frobenius = torch.linalg.svdvals(PolarIteration(((1.0,),), "frobenius", (1e-6, 1.0), tol=0.9999999)(x))[0]
    assert frobenius - 1e-9 <= top <= 1 + 1e-9


@pytest.mark.parametrize("restart", [2, 3, 6])
@pytest.mark.parametrize("shape", [(20, 90), (20, 20), (4, 10, 30)])
def test_gram_form_equals_the_direct_form(restart, shape):
    x = torch.randn(shape, dtype=torch.float64)
    direct = published_iteration("polar-express", 6, normalization="schatten8")
    gram = direct.with_compute(torch.float64, restart)
    torch.testing.assert_close(gram(x), direct(x), atol=1e-7, rtol=0)


def test_blocked_symmetric_products_change_nothing_but_rounding():
    from steepest.geometry.polar_steps import symmetric_product

    for size in (448, 500, 611):
        x = torch.randn(1, size, 60)
        exact = x.double() @ x.double().mT
        blocked = symmetric_product(x, x)
        assert (blocked.double() - exact).abs().max() <= 2 * ((x @ x.mT).double() - exact).abs().max()
    x = torch.randn(2, 460, 470)
    both = published_iteration("polar-express")(x)
    assert torch.equal(both[1], published_iteration("polar-express")(x[1]))


LAWS = [
    {"method": "svd"},
    {"method": "eigh"},
    {"tol": None},
    {"tol": 0.25},
    {"method": "polar-express"},
    {"method": "muon"},
]


def tolerance(options):
    return 0.06 if options.get("tol") else 2e-5


@pytest.mark.parametrize("options", LAWS, ids=str)
@pytest.mark.parametrize("shape", [(30, 30), (20, 64), (64, 20)])
def test_laws(options, shape):
    x = with_spectrum(*shape, torch.logspace(0, -1, min(shape))).float()
    bound = tolerance(options)
    out = polar_factor(x, **options)
    torch.testing.assert_close(polar_factor(x.mT, **options), out.mT, atol=bound, rtol=0)
    left = torch.linalg.qr(torch.randn(shape[0], shape[0])).Q
    right = torch.linalg.qr(torch.randn(shape[1], shape[1])).Q
    torch.testing.assert_close(polar_factor(left @ x @ right, **options), left @ out @ right, atol=bound, rtol=0)
    for scale in (2.0**60, 2.0**-60, 3.0, 1e-38):
        torch.testing.assert_close(polar_factor(x * scale, **options), out, atol=bound, rtol=0)
    torch.testing.assert_close(polar_factor(-x, **options), -out, atol=bound, rtol=0)
    batch = torch.stack([x, -x, 2 * x]).reshape(3, 1, *shape)
    looped = torch.stack([polar_factor(matrix, **options) for matrix in batch[:, 0]])[:, None]
    torch.testing.assert_close(polar_factor(batch, **options), looped, atol=bound, rtol=0)
    strided = x.mT.contiguous().mT
    torch.testing.assert_close(polar_factor(strided, **options), out, atol=bound, rtol=0)


@pytest.mark.parametrize("options", LAWS, ids=str)
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (1, 5)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_spoils_its_own_matrix_and_no_other(options, shape, bad):
    x = torch.randn(3, *shape)
    good = polar_factor(x, **options)
    x[1, 0, 2] = bad
    out = polar_factor(x, **options)
    assert out[1].isnan().all()
    torch.testing.assert_close(out[[0, 2]], good[[0, 2]])


@pytest.mark.parametrize("options", LAWS, ids=str)
def test_zero_and_detached(options):
    assert torch.equal(polar_factor(torch.zeros(3, 4), **options), torch.zeros(3, 4))
    assert not polar_factor(torch.randn(3, 4, requires_grad=True), **options).requires_grad


def test_the_automatic_choice_follows_dtype_tolerance_and_rates():
    assert choose_method(256, 256, dtype=torch.float64) == "svd"
    chosen = choose_method(256, 256, tol=0.25)
    assert isinstance(chosen, PolarIteration)
    assert chosen.dtype == torch.bfloat16
    no_bfloat16 = Rates(*[(1e-5, 4e-4, 1e-2)] * 2, (1e-2, 1e-1, 1e1), *[(3e-4, 1e-2, 2e-1)] * 4)
    slow = choose_method(256, 256, tol=0.25, rates=no_bfloat16)
    assert isinstance(slow, PolarIteration)
    assert slow.dtype is None
    wide = choose_method(64, 4096, tol=0.25, rates=no_bfloat16)
    assert isinstance(wide, PolarIteration)
    assert wide.restart == wide.steps  # Gram form pays for itself
    fast_eigh = Rates(*[(1e-5, 4e-4, 1e-2)] * 3, *[(1e-5, 1e-4, 1e-3)] * 2, *[(3e-4, 1e-2, 2e-1)] * 2)
    assert choose_method(300, 300, rates=fast_eigh) == "eigh"


@pytest.mark.parametrize("tol", [0.41, 0.33, 0.25, 0.065, 1e-3, 2e-6])
def test_tolerance_is_kept_on_log_uniform_singular_values(tol):
    x = with_spectrum(80, 120, torch.logspace(-1.3, 0, 80)).float()
    error = (polar_factor(x, tol=tol) - reference(x)).norm() / 80**0.5
    assert error <= tol


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (torch.ones(3), {}, ValueError, "expected matrices"),
        (torch.ones(0, 3), {}, ValueError, "expected matrices"),
        (torch.ones(3, 3, dtype=torch.int64), {}, TypeError, "real floating point"),
        (torch.ones(3, 3, dtype=torch.complex64), {}, TypeError, "real floating point"),
        ([[1.0]], {}, TypeError, "real floating point"),
        (torch.ones(3, 3), {"method": "newton"}, ValueError, "method must be"),
        (torch.ones(3, 3), {"method": "svd", "tol": 0.1}, ValueError, "tol is a number"),
        (torch.ones(3, 3), {"tol": 2.0}, ValueError, "tol is a number"),
    ],
)
def test_bad_arguments(x, options, error, message):
    with pytest.raises(error, match=message):
        polar_factor(x, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restart": 0}, "restart must be"),
        ({"restart": 5, "dtype": torch.bfloat16}, "rounding"),
        ({"dtype": torch.float16}, "dtype must be"),
        ({"coefficients": ((1.0, 0, 0, 0, 0, 0),)}, "degree 9"),
        ({"normalization": "max"}, "normalization must be"),
        ({"interval": (2.0, 1.0)}, "interval must be"),
    ],
)
def test_bad_iterations(options, message):
    with pytest.raises(ValueError, match=message):
        PolarIteration(**{"coefficients": PUBLISHED["muon"].coefficients * 5, **options})


@pytest.mark.parametrize(("name", "steps"), [("cans", 6), ("modula", 5), ("muon", 0), ("nobody", None)])
def test_step_counts_that_a_list_was_not_made_for(name, steps):
    with pytest.raises(ValueError, match=r"made for|must be|expected one of"):
        published_iteration(name, steps)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("shape", [(24, 24), (3, 20, 50), (50, 20), (2, 400, 410), (1000, 300)])
@pytest.mark.parametrize("name", ["designed-5", "designed-short", "cubic", "muon"])
def test_fused_steps_in_bfloat16_do_what_the_plain_ones_do(name, shape, tiles, monkeypatch):
    from steepest.geometry import polar_rates
    from steepest.kernels import matrices

    monkeypatch.setattr(polar_rates, "has_tiles", lambda: tiles)
    normalization = "frobenius" if name == "muon" else "schatten4" if name == "cubic" else "schatten8"
    if name == "cubic":
        iteration = PolarIteration([(1.5, -0.5)] * 6, normalization, (0.3, 1.0), torch.bfloat16, tol=0.9)
    else:
        iteration = published_iteration(name, normalization=normalization, dtype=torch.bfloat16)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = iteration.with_compute(torch.float64)(x.double())
    fused = iteration(x)
    monkeypatch.setattr(matrices, "has_kernel", lambda x: False)
    plain = iteration(x)
    size = exact.norm()
    errors = [float((y.double() - exact).norm() / size) for y in (fused, plain)]
    assert not torch.equal(fused, plain)
    assert errors[0] < 0.1  # of rounding, which a polynomial makes larger where it is steep
    assert errors[0] < 1.5 * errors[1]

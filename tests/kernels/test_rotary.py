import pytest
import torch

from steepest.functional import rotary

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 3e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float64: 1e-14}


def angles(time, size, *, full=False, batch=(), dtype=torch.float32):
    frequency = 100.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency
    angle = torch.cat([angle, angle], -1) if full else angle
    offset = torch.arange(float(torch.Size(batch).numel()), dtype=torch.float64).reshape(*batch, 1, 1)
    angle = angle + offset if batch else angle
    return angle.cos().to(dtype), angle.sin().to(dtype)


def reference(x, cos, sin):
    """The rotation as a product of complex numbers, in float64."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half].double(), x[..., half:].double())
    turn = torch.complex(cos[..., :half].double(), sin[..., :half].double()).unsqueeze(-2)
    return torch.cat([(z * turn).real, (z * turn).imag], -1)


def operand(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("full", "batch"), [(False, ()), (True, ()), (True, (2,)), (False, (2,))])
def test_value_and_gradient(dtype, full, batch):
    x, grad = operand(2, 7, 3, 10, dtype=dtype), operand(2, 7, 3, 10, dtype=dtype, seed=1)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    cos, sin = angles(7, 10, full=full, batch=batch, dtype=wide)
    x.requires_grad_()
    y = rotary(x, cos, sin)
    assert y.dtype is dtype
    (mine,) = torch.autograd.grad(y, x, grad)
    for got, right in ((y, reference(x, cos, sin)), (mine, reference(grad, cos, -sin))):
        torch.testing.assert_close(got.double(), right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_view_of_a_packed_projection_is_not_copied_and_gives_the_same_bits():
    qkv = operand(2, 7, 3 * 4 * 8, seed=2).requires_grad_()
    cos, sin = angles(7, 8)
    heads = qkv.unflatten(-1, (3, 4, 8))
    for i in range(3):
        y = rotary(heads[:, :, i], cos, sin)
        assert y.is_contiguous()
        assert torch.equal(y, rotary(heads[:, :, i].contiguous(), cos, sin))
    (grad,) = torch.autograd.grad(y.sum(), qkv)
    assert torch.equal(grad[..., :64], torch.zeros(2, 7, 64))
    for view in (
        heads[:, 1:, 0],
        heads[:, :, 0, ::2],
        heads[:, :, 0].transpose(0, 1)[:, :, :, ::2],
        heads[..., 0, 0, :, :],
    ):
        time, size = view.shape[-3], view.shape[-1]
        cos, sin = angles(time, size)
        assert torch.equal(rotary(view, cos, sin), rotary(view.contiguous(), cos, sin))


def test_lengths_are_kept_and_the_inverse_undoes_it():
    x, (cos, sin) = operand(5, 2, 64), angles(5, 64)
    y = rotary(x, cos, sin)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotary(y, cos, -sin), x)


def test_scores_depend_on_distance_alone():
    query, key = operand(1, 1, 16).expand(9, 1, 16), operand(1, 1, 16, seed=1).expand(9, 1, 16)
    cos, sin = angles(9, 16)
    scores = (rotary(query, cos, sin) * rotary(key, cos, sin)).sum(-1)
    torch.testing.assert_close(scores, scores[:1].expand(9, 1))


def test_threads_and_empty():
    x, (cos, sin) = operand(512, 16, 64), angles(512, 64)
    one = rotary(x, cos, sin)
    torch.set_num_threads(2)
    assert torch.equal(rotary(x, cos, sin), one)
    assert rotary(x[:0], cos[:0], sin[:0]).shape == (0, 16, 64)
    assert rotary(x[:, :0], cos, sin).shape == (512, 0, 64)


def test_autograd_of_every_order_and_torch_func():
    x, (cos, sin) = operand(2, 3, 2, 4, dtype=torch.float64).requires_grad_(), angles(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: rotary(v, cos, sin), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: rotary(v, cos, sin).square(), x)
    y, (cos, sin) = operand(2, 3, 2, 4), angles(3, 4)
    mapped = torch.func.vmap(torch.func.grad(lambda v: rotary(v, cos, sin).sin().sum()))(y)
    leaf = y.clone().requires_grad_()
    (first,) = torch.autograd.grad(rotary(leaf, cos, sin).sin().sum(), leaf, create_graph=True)
    torch.testing.assert_close(mapped, first)
    assert torch.autograd.grad(first.sum(), leaf)[0].isfinite().all()


def test_compiles_and_is_an_honest_operator():
    torch._dynamo.reset()
    qkv, (cos, sin) = operand(2, 7, 3 * 2 * 8).requires_grad_(), angles(7, 8)

    def keys(v):
        return rotary(v.unflatten(-1, (3, 2, 8))[:, :, 1], cos, sin)

    y = torch.compile(keys, fullgraph=True, backend="aot_eager")(qkv)
    assert torch.equal(y, keys(qkv))
    assert torch.equal(torch.autograd.grad(y.sum(), qkv)[0], torch.autograd.grad(keys(qkv).sum(), qkv)[0])
    operator = torch.ops.steepest.rotary.default
    torch.library.opcheck(operator, (operand(7, 2, 8).requires_grad_(), cos, sin, False))
    x = operand(3, 7, 2, 8)
    assert torch.equal(
        torch.func.vmap(operator, in_dims=(0, None, None, None))(x, cos, sin, False), rotary(x, cos, sin)
    )


def test_wrong_operands_are_refused():
    x, (cos, sin) = operand(7, 2, 8), angles(7, 8)
    with pytest.raises(ValueError, match="even head_size"):
        rotary(x[..., :7], cos, sin)
    with pytest.raises(ValueError, match="cos and sin of shape"):
        rotary(x, cos[:3], sin[:3])
    with pytest.raises(ValueError, match="constants"):
        rotary(x, cos.clone().requires_grad_(), sin)

"""What every optimizer of the library promises, whatever its rule."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.geometry import ColumnNorm, RowNorm, Schatten
from steepest.optim import Engine, Options
from steepest.optim.adam_rule import AdamRule
from steepest.optim.muon import MuonRule
from tests.defaults import DEFAULTS
from tests.optim.gradients import give_gradients, gradient, run

#: Arguments that a constructor cannot do without.
NEEDED: dict[str, dict] = {
    "Chebyshev": {"L": 1.0, "mu": 0.01},
    "Steepest": {"norm": Schatten(4.0)},
    "MultiNormalized": {"norms": [RowNorm(rms=True), ColumnNorm(rms=True)]},
    "Grafted": {"direction": MuonRule(), "magnitude": AdamRule()},
}
OPTIMIZERS = sorted(
    name
    for name in optim.__all__
    if isinstance(getattr(optim, name), type) and issubclass(getattr(optim, name), Engine)
)
OPTIMIZERS.remove("Engine")


def make(name: str, params, **settings) -> Engine:
    return getattr(optim, name)(params, **NEEDED.get(name, {}), **settings)


class Net(nn.Module):
    """One of each: embedding, matrix, convolution, norm, biases, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.convolution = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.wide = nn.Linear(8, 12, bias=False)
        self.head = nn.Linear(12, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.convolution(self.embedding(ids).mT).mT
        return self.head(self.wide(torch.relu(self.hidden(self.norm(x)))))


def net(dtype: torch.dtype = torch.float32) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().to(dtype)


def members(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


def equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def same(one, two) -> bool:
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture(params=OPTIMIZERS)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("default", DEFAULTS.values(), ids=DEFAULTS.keys())
def test_same_bits_whatever_the_default_dtype_and_device_are(name, default):
    plain, under = net(), net()
    run(make(name, plain), members(plain), range(3))
    with default():
        optimizer = make(name, under)
    for step in range(3):
        give_gradients(members(under), step)
        with default():
            optimizer.step()
    assert equal(plain, under)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "8bit"])
def test_resumes_bit_for_bit_from_a_file_with_other_random_numbers_around(name, state_dtype):
    options = Options(state_dtype=state_dtype, seed=3)
    whole, half = net(), net()
    one, two = make(name, whole, options=options), make(name, half, options=options)
    run(one, members(whole), range(6))
    run(two, members(half), range(3))
    saved = through_a_file(two.state_dict())
    torch.manual_seed(12345)
    again = net()
    again.load_state_dict(half.state_dict())
    three = make(name, again, options=options)
    three.load_state_dict(saved)
    run(three, members(again), range(3, 6))
    assert equal(whole, again)
    assert all(
        same(one.state[p][key], three.state[q][key])
        for p, q in zip(members(whole), members(again), strict=True)
        for key in one.state[p]
    )


def test_same_seed_same_bits_and_the_global_generator_is_left_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = net(), net()
    run(make(name, one), members(one), range(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    run(make(name, two), members(two), range(3))
    assert equal(one, two)


def test_gradients_are_untouched(name):
    model = net()
    optimizer = make(name, model)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    for step in range(3):
        give_gradients(members(model), step)
        kept = [(p.grad, p.grad.clone(), p.grad._version) for p in members(model)]
        optimizer.step()
        for p, (grad, values, version) in zip(members(model), kept, strict=True):
            assert p.grad is grad
            assert grad._version == version
            assert torch.equal(grad, values)


def test_every_parameter_moves_and_stays_finite(name):
    model = net()
    start = copy.deepcopy(model)
    run(make(name, model), members(model), range(3))
    for (label, p), q in zip(model.named_parameters(), start.parameters(), strict=True):
        assert p.isfinite().all(), label
        assert not torch.equal(p, q), label


def test_closure_runs_with_gradients_and_its_loss_comes_back(name):
    model = net()
    optimizer = make(name, model)
    ids = torch.arange(10).reshape(2, 5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.requires_grad
    assert loss.item() > 0


def test_missing_gradients_leave_a_parameter_and_its_state_alone(name):
    model, other = net(), net()
    one, two = make(name, model), make(name, other)
    run(one, members(model), range(2))
    run(two, members(other), range(2))
    kept = model.hidden.weight.detach().clone()
    state = copy.deepcopy(one.state[model.hidden.weight])
    give_gradients(members(model), 2)
    model.hidden.weight.grad = None
    one.step()
    assert torch.equal(model.hidden.weight, kept)
    assert all(same(one.state[model.hidden.weight][key], value) for key, value in state.items())
    run(one, members(model), range(3, 5))
    assert all(p.isfinite().all() for p in members(model))


def test_no_gradients_at_all_is_no_step(name):
    model = net()
    start = copy.deepcopy(model)
    make(name, model).step()
    assert equal(model, start)


@pytest.mark.parametrize("kind", ["zero", "rank one"])
def test_degenerate_gradients_keep_everything_finite(name, kind):
    model = net()
    run(make(name, model), members(model), range(4), kind)
    assert all(p.isfinite().all() for p in members(model))


def test_tiny_and_huge_gradients_keep_everything_finite(name):
    for size in (1e-25, 1e15):
        model = net()
        optimizer = make(name, model)
        for step in range(3):
            give_gradients(members(model), step)
            for p in members(model):
                p.grad.mul_(size)
            optimizer.step()
        assert all(p.isfinite().all() for p in members(model)), size


def test_storage_order_does_not_matter(name):
    """Transposed and channels-last storage gives what contiguous storage gives."""
    one, two = net(torch.float64), net(torch.float64)
    two.hidden.weight = nn.Parameter(two.hidden.weight.detach().t().contiguous().t())
    two.convolution.weight = nn.Parameter(two.convolution.weight.detach().transpose(0, 2).contiguous().transpose(0, 2))
    assert not two.hidden.weight.is_contiguous()
    run(make(name, one), members(one), range(3))
    run(make(name, two), members(two), range(3))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_accumulation_in_micro_batches_is_one_step(name):
    one, two = net(torch.float64), net(torch.float64)
    first, second = make(name, one), make(name, two)
    for step in range(3):
        give_gradients(members(one), step)
        for index, p in enumerate(members(two)):
            p.grad = None
            whole = gradient(tuple(p.shape), step, index)
            loss = (p * whole * 0.5).sum()
            loss.backward()
            (p * whole * 0.5).sum().backward()
        first.step()
        second.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_dtype(name, dtype):
    model = net(dtype)
    optimizer = make(name, model)
    run(optimizer, members(model), range(3))
    for p in members(model):
        assert p.dtype == dtype
        assert p.isfinite().all()
        work = torch.promote_types(dtype, torch.float32)
        floating = [v for k, v in optimizer.state[p].items() if k != "step" and v.is_floating_point()]
        assert all(v.dtype in (work, torch.float64) for v in floating)


def test_deepcopy_and_pickle_continue_alike(name):
    model = net()
    optimizer = make(name, model)
    run(optimizer, members(model), range(2))
    copied_model, copied = copy.deepcopy((model, optimizer))
    pickled_model, pickled = pickle.loads(pickle.dumps((model, optimizer)))
    for m, o in ((model, optimizer), (copied_model, copied), (pickled_model, pickled)):
        run(o, members(m), range(2, 4))
    assert equal(model, copied_model)
    assert equal(model, pickled_model)


def test_learning_rate_schedulers_act(name):
    model = net()
    optimizer = make(name, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    run(optimizer, members(model), range(1))
    schedule.step()
    kept = copy.deepcopy(model)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    run(optimizer, members(model), range(1, 2))
    assert equal(model, kept)


def test_gradient_scaler_skips_an_overflow(name):
    model = net()
    optimizer = make(name, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    start = copy.deepcopy(model)
    ids = torch.arange(10).reshape(2, 5)
    loss = model(ids).square().mean()
    scaler.scale(loss).backward()
    members(model)[0].grad[0, 0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert equal(model, start)
    optimizer.zero_grad()
    scaler.scale(model(ids).square().mean()).backward()
    scaler.step(optimizer)
    assert not equal(model, start)


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"weight_decay": -0.1}])
def test_bad_numbers_are_refused(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make(name, [{"params": [nn.Parameter(torch.eye(2))], **settings}])


def test_unknown_settings_are_refused(name):
    with pytest.raises(TypeError, match="momentun"):
        make(name, net(), momentun=0.9)
    with pytest.raises(TypeError, match="weight_decya"):
        make(name, [{"params": [nn.Parameter(torch.eye(2))], "weight_decya": 0.1}])


@pytest.mark.parametrize("bad", [torch.zeros(2, 2, dtype=torch.complex64), torch.zeros(2, 2, dtype=torch.int32)])
def test_what_is_not_real_is_refused(name, bad):
    if bad.is_complex() and make(name, [nn.Parameter(torch.eye(2))]).rule.works_on == "entries":
        pytest.skip("methods that work entry by entry step pairs of real numbers; see test_parameters.py")
    with pytest.raises(TypeError, match="real"):
        make(name, [nn.Parameter(bad, requires_grad=False)])


def test_duplicates_and_sparse_gradients_are_refused(name):
    p = nn.Parameter(torch.eye(3))
    with pytest.raises(ValueError, match="more than once"):
        make(name, [p, p])
    with pytest.raises(ValueError, match="more than one"):
        make(name, [{"params": [p]}, {"params": [p]}])
    optimizer = make(name, [p])
    p.grad = torch.eye(3).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()


def test_a_state_of_another_method_is_refused(name):
    other = "Muon" if name in ("Adam", "AdamW") else "AdamW"
    model = net()
    saved = make(other, model).state_dict()
    with pytest.raises(ValueError, match=r"rule|group"):
        make(name, net()).load_state_dict(saved)

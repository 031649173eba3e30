import pytest
import torch

from steepest.optim import SGD, AdamW, Lion, Muon, NAdam, Nesterov, Options
from steepest.optim.compiled import require_compiler
from tests.optim.gradients import parameters, run

SHAPES = [(12, 5), (5, 12), (5, 12), (8, 8)]


@pytest.fixture
def no_compiler(monkeypatch):
    from torch._inductor import cpp_builder

    def missing() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)


def test_without_a_compiler_the_option_is_refused_at_once(no_compiler):
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler"):
        AdamW(parameters(SHAPES), options=Options(compile=True))
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler"):
        AdamW([{"params": parameters(SHAPES), "compile": True}])
    AdamW(parameters(SHAPES))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (AdamW, {"weight_decay": 0.1}),
        (AdamW, {"amsgrad": True}),
        (SGD, {"momentum": 0.9, "nesterov": True}),
        (Nesterov, {"momentum": None}),
        (NAdam, {}),
        (Lion, {}),
        (Muon, {}),
    ],
)
def test_compiled_steps_equal_plain_ones_and_are_compiled_few_times(make, settings):
    require_compiler()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    one, two = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    run(make(one, lr=0.01, **settings), one, range(20))
    optimizer = make(two, lr=0.01, options=Options(compile=True), **settings)
    run(optimizer, two, range(20))
    tolerance = 2e-2 if make is Muon else 1e-5  # Muon multiplies in bfloat16, in another order when compiled.
    start = parameters(SHAPES, torch.float32)
    for a, b, s in zip(one, two, start, strict=True):
        assert (a - b).norm() <= tolerance * (a - s).norm()
    # The number of the step and the shapes are variables of what is compiled.
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6

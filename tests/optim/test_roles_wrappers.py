"""Wrappers leave names, shapes and roles as they are."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from steepest.nn import Llama, preset
from steepest.optim.roles import parameter_roles
from tests.optim.role_table import table

# What torch.compile imports on first use still goes through torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

IDS = torch.zeros(1, 4, dtype=torch.long)


class Network(nn.Module):
    """A part of it is called `module`, as inside data-parallel wrappers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.module = nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6))
        self.out = nn.Linear(6, 2)

    def forward(self, ids):
        return self.out(self.module(self.embed(ids)))


EXPECTED = {
    "embed.weight": "embedding T",
    "module.0.weight": "hidden",
    "module.0.bias": "bias",
    "module.1.weight": "gain",
    "out.weight": "head",
    "out.bias": "bias",
}


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("inputs", [None, IDS], ids=["order", "use"])
@pytest.mark.parametrize("wrap", [lambda m: m, torch.compile, AveragedModel], ids=["none", "compile", "average"])
def test_wrapped_model(wrap, inputs):
    assert table(wrap(Network()), example_inputs=inputs) == EXPECTED


@pytest.mark.parametrize("inputs", [None, IDS], ids=["order", "use"])
def test_wrapped_parts(inputs):
    model = Network()
    model.module = checkpoint_wrapper(model.module)
    model.out = torch.compile(model.out)
    assert table(model) == EXPECTED
    if inputs is not None:
        model.out = model.out._orig_mod  # a compiled part would be compiled for the pass
        assert table(model, example_inputs=inputs) == EXPECTED


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("inputs", [None, IDS], ids=["order", "use"])
def test_data_parallel_model(inputs):
    assert table(torch.compile(DistributedDataParallel(Network())), example_inputs=inputs) == EXPECTED


@pytest.mark.usefixtures("one_process")
def test_sharded_model_has_the_names_types_and_whole_shapes():
    plain = Llama(preset("nano", tie_embeddings=True))
    sharded = Llama(preset("nano", tie_embeddings=True))
    for block in sharded.model.layers:
        fully_shard(block)
    fully_shard(sharded)
    assert parameter_roles(sharded) == parameter_roles(plain)

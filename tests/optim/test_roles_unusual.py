"""Parameters of modules of unknown type, flattened ones, and what is refused."""

import pytest
import torch
from torch import nn

from steepest.optim.roles import ParameterRole, parameter_roles
from tests.optim.role_table import table


def by_name(model, **options) -> dict[str, ParameterRole]:
    return {entry.name: entry for entry in parameter_roles(model, **options)}


class Naked(nn.Module):
    """Parameters on a module of unknown type."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4))
        self.experts_w1 = nn.ParameterList([nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))])
        self.gate_up_proj = nn.Parameter(torch.zeros(3, 10, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.A_log = nn.Parameter(torch.zeros(6, 4))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.router_bias = nn.Parameter(torch.zeros(3))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))


def test_parameters_of_unknown_modules_fall_back_to_shape_and_name():
    assert table(Naked()) == {
        "weight": "hidden",
        "gate_up_proj": "experts 5+5",
        "pos_embed": "embedding T",
        "cls_token": "vector",
        "A_log": "other",
        "logit_scale": "vector",
        "router_bias": "bias",
        "relative_position_bias_table": "embedding T",
        "experts_w1.0": "other",
        "experts_w1.1": "vector",
    }
    roles = by_name(Naked())
    assert "give example_inputs or an override" in roles["A_log"].reason
    assert roles["pos_embed"].matrix_shape == (4, 5)


def test_lazy_modules_and_other_things_are_refused():
    with pytest.raises(ValueError, match=r"1\.weight has no shape yet; run the model on an input once"):
        parameter_roles(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3)))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got list"):
        parameter_roles([nn.Parameter(torch.zeros(2))])


def test_a_partitioned_parameter_counts_with_its_whole_shape():
    """DeepSpeed's partitioning leaves one dimension; that must not make a matrix a vector."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    for layer in model:
        shape = layer.weight.shape
        layer.weight = nn.Parameter(torch.zeros(0))
        layer.weight.ds_shape = shape
    assert table(model) == {"0.weight": "hidden", "1.weight": "head"}
    assert by_name(model)["0.weight"].matrix_shape == (4, 3)


def test_a_flattened_matrix_is_refused_and_not_taken_for_a_vector():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten())
    model[0].weight = nn.Parameter(torch.zeros(54))
    with pytest.raises(ValueError, match=r"0\.weight of Conv2d has shape \(54,\), where 4 dimensions were expected"):
        parameter_roles(model)


class Outer(nn.Module):
    """Makes a matrix from two vectors."""

    def forward(self, left, right):
        return left[:, None] * right

    def right_inverse(self, matrix):
        return matrix[:, 0], matrix[0]


def test_a_parametrization_of_other_shapes_is_not_a_matrix():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.LayerNorm(4, bias=False))
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", Outer(), unsafe=True)
    assert table(model) == {
        "0.parametrizations.weight.original0": "vector",
        "0.parametrizations.weight.original1": "vector",
        "1.weight": "gain",
    }


class RMSNormGated(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.beta = nn.Parameter(torch.zeros(4))


class LayerNorm2d(nn.LayerNorm):
    pass


class PreNormBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


def test_normalizations_of_other_libraries_go_by_the_name_of_their_class():
    model = nn.ModuleList([RMSNormGated(), LayerNorm2d([4, 2]), PreNormBlock()])
    assert table(model) == {
        "0.weight": "gain",
        "0.beta": "bias",
        "1.weight": "gain",
        "1.bias": "bias",
        "2.gamma": "vector",
    }
    assert by_name(model)["1.bias"].fan_out == 8

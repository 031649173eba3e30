import re

import pytest
from torch import nn

from steepest.optim.roles import Role, RoleOverride, parameter_roles
from tests.optim.role_table import table


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 9))
    model[4].weight.data.zero_()
    return model


FOUND = {
    "0.weight": "embedding T",
    "1.weight": "hidden",
    "1.bias": "bias",
    "2.weight": "hidden",
    "2.bias": "bias",
    "3.weight": "gain",
    "3.bias": "bias",
    "4.weight": "head",
    "4.bias": "bias",
}


@pytest.mark.parametrize("pattern", ["1.w*", "re:1\\.weight", re.compile(r"1\.w.*")], ids=["shell", "re", "compiled"])
def test_a_pattern_changes_what_it_matches_and_nothing_else(pattern):
    assert table(network()) == FOUND
    assert table(network(), overrides={pattern: "other"}) == FOUND | {"1.weight": "other"}
    changed = parameter_roles(network(), overrides={pattern: Role.OTHER})[1]
    assert changed.reason.startswith("The override '")


def test_blocks_and_layout_can_be_given():
    overrides = {"2.weight": RoleOverride(blocks=(4, 2)), "1.weight": RoleOverride(transposed=True)}
    assert table(network(), overrides=overrides) == FOUND | {"2.weight": "hidden 4+2", "1.weight": "hidden T"}
    with pytest.raises(ValueError, match=r"2\.weight: blocks must be sizes that sum to its 6 outputs, got \(4, 3\)"):
        parameter_roles(network(), overrides={"2.weight": RoleOverride(blocks=(4, 3))})


def test_an_embedding_read_as_a_head_turns_over():
    changed = parameter_roles(network(), overrides={"0.weight": "tied"})[0]
    assert (changed.matrix_shape, changed.transposed) == ((9, 4), False)


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"override '1\.wieght' matches no parameter; the nearest names are 1\.weight"):
        parameter_roles(network(), overrides={"1.wieght": "other"})
    with pytest.raises(ValueError, match=r"override 're:weight' matches no parameter; the nearest names are 0\.weight"):
        parameter_roles(network(), overrides={"re:weight": "other"})  # expressions match whole names


def test_a_pattern_that_matches_only_frozen_parameters_says_so():
    model = network()
    model[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"matches only frozen parameters \(1\.weight"):
        parameter_roles(model, overrides={"1.*": "other"})


def test_patterns_that_disagree_are_refused_and_those_that_agree_are_not():
    with pytest.raises(
        ValueError, match=r"disagree about role of 1\.weight: '1\.\*' says other, '\*\.weight' says head"
    ):
        parameter_roles(network(), overrides={"1.*": "other", "*.weight": "head"})
    both = {"1.w*": "other", "?.weight": "other"}
    assert table(network(), overrides=both)["1.weight"] == "other"


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("hiden", "no role 'hiden'; did you mean 'hidden'"),
        ("hidden", r"1\.bias has shape \(6,\) and cannot be 'hidden', which needs 2 dimensions"),
        ("conv", r"1\.bias has shape \(6,\) and cannot be 'conv', which needs 3 dimensions"),
    ],
)
def test_roles_that_do_not_exist_or_do_not_fit_are_refused(role, message):
    with pytest.raises(ValueError, match=message):
        parameter_roles(network(), overrides={"1.bias": role})


def test_a_bad_expression_is_refused():
    with pytest.raises(ValueError, match=r"override 're:\(' is not a regular expression"):
        parameter_roles(network(), overrides={"re:(": "other"})


def test_an_alias_can_be_named():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "out": nn.Linear(4, 9, bias=False)})
    model["out"].weight = model["embed"].weight
    assert table(model) == {"embed.weight": "tied"}
    assert table(model, overrides={"out.weight": "head"}) == {"embed.weight": "head"}

"""The modular norm against its recursion and against what it promises: a bound on the change of a network's output."""

import math
import random

import pytest
import torch

from steepest.geometry import Atom, Bond, L1ToRMS, Modular, RMSToRMS
from steepest.geometry.modular import Branches, Composition

WIDTH = 6


def run(node: Modular, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Evaluate the network a tree describes: linear atoms, bonds that are a multiple of ReLU; eats `weights`."""
    if isinstance(node, Atom):
        return x @ weights.pop(0).mT
    if isinstance(node, Bond):
        return node.sensitivity * torch.relu(x)
    if isinstance(node, Composition):
        return run(node.outer, weights, run(node.inner, weights, x))
    assert isinstance(node, Branches)
    return torch.stack([run(part, weights, x) for part in node.parts]).sum(0)


def brute_force_norm(node: Modular, sizes: list[float]) -> float:
    """The published recursion on the sizes of the weights."""
    if isinstance(node, Atom):
        return sizes.pop(0)
    if isinstance(node, Bond):
        return 0.0
    if isinstance(node, Composition):
        inner, outer = brute_force_norm(node.inner, sizes), brute_force_norm(node.outer, sizes)
        left = node.outer.sensitivity * node.mass / node.inner.mass * inner if node.inner.mass else 0.0
        return max(left, node.mass / node.outer.mass * outer if node.outer.mass else 0.0)
    assert isinstance(node, Branches)
    return max(brute_force_norm(part, sizes) * (node.mass / part.mass if part.mass else 0.0) for part in node.parts)


def random_tree(dice: random.Random, depth: int) -> Modular:
    """A network that keeps the unit RMS ball: every sum is a convex combination."""
    choice = dice.random()
    if depth == 0 or choice < 0.15:
        return Atom(RMSToRMS(), mass=dice.choice([0.5, 1.0, 3.0]))
    if choice < 0.3:
        return Bond(dice.choice([0.5, 1.0])) @ random_tree(dice, depth - 1)
    if choice < 0.65:
        share = dice.uniform(0.1, 0.9)
        skip = Bond(1.0) if dice.random() < 0.5 else random_tree(dice, depth - 1)
        return (1 - share) * skip + share * random_tree(dice, depth - 1)
    return random_tree(dice, depth - 1) @ random_tree(dice, depth - 1)


def gaussian(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def weights_in_the_ball(count, generator):
    drawn = [gaussian(WIDTH, WIDTH, generator=generator) for _ in range(count)]
    return [w / RMSToRMS().norm(w) for w in drawn]


@pytest.mark.parametrize("seed", range(40))
def test_product_equals_the_recursion(seed):
    tree = random_tree(random.Random(seed), 5)
    generator = torch.Generator().manual_seed(seed)
    changes = [gaussian(WIDTH, WIDTH, generator=generator) for _ in tree.leaves()]
    sizes = [float(RMSToRMS().norm(change)) for change in changes]
    assert float(tree.product().norm(changes)) == pytest.approx(brute_force_norm(tree, sizes))


@pytest.mark.parametrize("seed", range(40))
def test_it_bounds_the_change_of_the_output_of_a_random_network(seed):
    tree = random_tree(random.Random(seed), 4)
    generator = torch.Generator().manual_seed(seed)
    count = len(tree.leaves())
    x = gaussian(64, WIDTH, generator=generator)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    weights = weights_in_the_ball(count, generator)

    def largest_change(changes):
        call = lambda *w: run(tree, list(w), x)  # noqa: E731
        return torch.autograd.functional.jvp(call, tuple(weights), tuple(changes))[1].square().mean(-1).sqrt().max()

    for _ in range(10):
        changes = [gaussian(WIDTH, WIDTH, generator=generator) for _ in range(count)]
        assert largest_change(changes) <= tree.product().norm(changes) * (1 + 1e-12)
        # The steps that optimizers take are extreme points of the ball, where the bound is tightest.
        assert largest_change(tree.product().lmo(changes)) <= 1 + 1e-12
    # The sensitivity is the matching bound on changes of the input.
    v = gaussian(64, WIDTH, generator=generator)
    moved = torch.autograd.functional.jvp(lambda x: run(tree, list(weights), x), x, v)[1]
    assert (moved.square().mean(-1) <= tree.sensitivity**2 * v.square().mean(-1) * (1 + 1e-12)).all()


def test_the_bound_is_reached_by_aligned_layers():
    chain = 0.5 * (Atom(RMSToRMS(), mass=2.0) @ Atom(RMSToRMS()) @ Atom(RMSToRMS(), mass=5.0))
    identity = torch.eye(WIDTH, dtype=torch.float64)
    x = torch.ones(1, WIDTH, dtype=torch.float64)
    changes = [-step for step in chain.product().lmo([identity] * 3)]
    moved = torch.autograd.functional.jvp(lambda *w: run(chain, list(w), x), (identity,) * 3, tuple(changes))[1]
    # Each layer adds its share mass / total of the output's change of one.
    torch.testing.assert_close(moved, torch.ones_like(x))


def test_masses_and_sensitivities_combine():
    a, b = Atom(RMSToRMS(), mass=2.0, sensitivity=3.0), Atom(RMSToRMS(), mass=5.0, sensitivity=0.5)
    assert ((a @ b).mass, (a @ b).sensitivity) == (7.0, 1.5)
    assert ((a + b).mass, (a + b).sensitivity) == (7.0, 3.5)
    assert ((-2 * a).mass, (-2 * a).sensitivity) == (2.0, 6.0)
    assert ((a**3).mass, (a**3).sensitivity) == (6.0, 27.0)
    # Modula's rule: inner gets t * mass / total / outer sensitivity, outer t * mass / total.
    assert (a @ b).product().scales == pytest.approx((3.0 * 7 / 5, 7 / 2))


def test_leaves_come_in_data_flow_order():
    net = Atom(RMSToRMS()) @ Bond() @ Atom(L1ToRMS())
    assert [type(norm).__name__ for norm in net.product().norms] == ["L1ToRMS", "RMSToRMS"]


def test_deep_residual_stack_has_depth_free_sensitivity():
    for depth in (2, 8, 32):
        block = (1 - 1 / depth) * Bond() + (1 / depth) * Atom(RMSToRMS())
        stack = block**depth
        assert stack.sensitivity == pytest.approx(1)
        assert all(scale == pytest.approx(1.0) for scale in stack.product().scales)


def test_an_atom_of_mass_zero_is_frozen():
    net = Atom(RMSToRMS()) @ Atom(RMSToRMS(), mass=0.0)
    assert net.product().scales[0] == math.inf
    assert not net.product().lmo([torch.eye(2), torch.eye(2)])[0].any()


def test_associativity():
    a, b, c = (Atom(RMSToRMS(), mass=m, sensitivity=s) for m, s in ((1.0, 2.0), (3.0, 0.5), (2.0, 4.0)))
    assert ((a @ b) @ c).product().scales == pytest.approx((a @ (b @ c)).product().scales)
    assert ((a + b) + c).product().scales == pytest.approx((a + (b + c)).product().scales)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="no weights"):
        (Bond() @ Bond()).product()
    with pytest.raises(ValueError, match="no effect"):
        (0 * Atom(RMSToRMS())).product()
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="mass must be"):
            Atom(RMSToRMS(), mass=value)
        with pytest.raises(ValueError, match="sensitivity must be"):
            Bond(value)
    with pytest.raises(ValueError, match="copies"):
        Atom(RMSToRMS()) ** 0
    with pytest.raises(ValueError, match="at least one part"):
        Branches(())

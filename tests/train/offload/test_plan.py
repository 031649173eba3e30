"""The planner against brute force, and its laws."""

import dataclasses
import itertools

import pytest

from steepest.train.offload import Choice, Facts, NothingFitsError, choose, minimum
from tests.train.offload.plan_cases import instance

SEEDS = range(60)


def brute_force(facts: Facts, limit: int) -> float | None:
    """The fastest step under a limit, over every place for every single block, in every order."""
    acts, best = facts.activations, None
    held = {"keep": acts.keep, "recompute": acts.recompute, "swap": acts.swap}
    for way, places in itertools.product(facts.ways, itertools.product(held, repeat=acts.blocks)):
        choice = Choice(way, *(places.count(place) for place in ("keep", "recompute", "swap")))
        own = facts.ways[way]
        swapped = choice.swap * acts.swapped * facts.cost.rounds
        if own.disk + swapped > facts.disk_free and own.disk + swapped > 0:
            continue
        peak = acts.start + acts.forward + own.before + sum(held[place] for place in places[:-1])
        live = sum(held[place] for place in places)
        peak = max(peak, acts.start + acts.head + live + max(own.before, own.alive[0]))
        for step, place in enumerate(reversed(places)):
            live -= held[place]
            peak = max(peak, acts.start + acts.backward + live + max(own.before, own.alive[1 + step]))
        peak = max(peak, own.alive[-1] + max(acts.start, own.update), facts.aside)
        peak += facts.baseline + facts.weights + own.states + own.buffers + (acts.buffers if choice.swap else 0)
        seconds = sum(facts.seconds(choice).values())
        if peak <= limit and (best is None or seconds < best):
            best = seconds
    return best


@pytest.mark.parametrize("seed", SEEDS)
def test_it_finds_the_optimum_of_all_places_in_all_orders(seed):
    facts = instance(seed)
    least = minimum(facts)
    for limit in (least, least + 100, least + 1000, 10**9):
        plan = choose(facts, limit)
        assert plan.peak <= limit
        assert plan.seconds == pytest.approx(brute_force(facts, limit), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_minimum_is_the_minimum(seed):
    facts = instance(seed)
    least = minimum(facts)
    assert choose(facts, least).peak == least
    with pytest.raises(NothingFitsError) as caught:
        choose(facts, least - 1)
    assert caught.value.minimum == least
    assert brute_force(facts, least - 1) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_more_memory_is_never_slower(seed):
    facts = instance(seed)
    least = minimum(facts)
    times = [choose(facts, least + more).seconds for more in range(0, 4000, 200)]
    assert times == sorted(times, reverse=True)


def test_more_of_anything_is_never_less_memory():
    facts = instance(3)
    for choice in facts.choices():
        peak = facts.peak(choice)
        for name in ("baseline", "weights"):
            assert facts.peak(choice) + 7 == dataclasses.replace(facts, **{name: getattr(facts, name) + 7}).peak(choice)
        for name in ("start", "keep", "recompute", "swap", "forward", "head", "backward"):
            acts = dataclasses.replace(facts.activations, **{name: getattr(facts.activations, name) + 7})
            assert dataclasses.replace(facts, activations=acts).peak(choice) >= peak


def test_without_a_disk_nothing_goes_there():
    facts = instance(1, disk=False)
    assert all(choice.swap == 0 for choice in facts.choices())


def test_a_full_disk_is_not_chosen():
    facts = dataclasses.replace(instance(0), disk_free=1)
    facts = dataclasses.replace(
        facts, ways={way: dataclasses.replace(own, disk=0 if way == "memory" else 2) for way, own in facts.ways.items()}
    )
    plan = choose(facts, 10**9)
    assert plan.choice.way == "memory"
    assert plan.on_disk <= 1


def test_what_was_not_chosen_says_why():
    facts = instance(5)
    plan = choose(facts, minimum(facts))
    assert {other.choice.way for other in plan.alternatives} >= set(facts.ways) - {plan.choice.way}
    for other in plan.alternatives:
        assert other.reason
        assert other.peak > plan.limit or other.seconds >= plan.seconds


def test_where_nothing_fits_the_message_names_the_least_and_its_largest_part():
    facts = dataclasses.replace(instance(2), weights=7_000_000_000)
    with pytest.raises(
        NothingFitsError, match=r"--memory-limit 1\.00 GB: the least is 7010MB \(weights 7\.00 GB"
    ) as caught:
        choose(facts, 10**9)
    assert choose(facts, caught.value.minimum).peak == caught.value.minimum

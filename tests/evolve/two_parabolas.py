"""A problem whose front is known: x^2 against (x - 1)^2, best where 0 <= x <= 1."""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from steepest.evolve import Member, Settings, evolve


class TwoParabolas:
    def propose(self, parents, count, rng):
        if not parents:
            return [float(x) for x in rng.uniform(-10, 10, count)]
        return [parents[int(i)].genome for i in rng.integers(len(parents), size=count)]

    def vary(self, genome, rng):
        return genome + float(rng.normal())

    def evaluate(self, genome, rng):
        genome = genome + 1e-3 * float(rng.normal())
        return Member(genome, (genome**2, (genome - 1) ** 2))

    def key(self, member):
        return float(member.genome).hex()

    def to_json(self, genome):
        return float(genome).hex()

    def from_json(self, value):
        return float.fromhex(value)

    def describe(self):
        return {"name": "two parabolas"}


SETTINGS = Settings(population=12, children=20, generations=12, seed=5)


def answer(state):
    return [(m.genome, m.objectives) for m in state.members]


def die_at(generation):
    def report(state):
        if state.generation == generation:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


if __name__ == "__main__":
    np.seterr(all="raise")
    evolve(TwoParabolas(), SETTINGS, checkpoint=Path(sys.argv[1]), report=die_at(7), save_every=0.0)

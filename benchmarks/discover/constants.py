# SPDX-License-Identifier: Apache-2.0
"""Constants of given structures from random starts: Levenberg-Marquardt's fits against CMA-ES, both as shipped.

    python benchmarks/discover/constants.py --out benchmarks/results/NAME.json

Each structure is tried with several seeds. The error that counts as found is twice that of the minimax constants.
"""

import argparse
import json
import pathlib
import statistics
import time

import numpy as np

from steepest.bench.timing import machine
from steepest.discover import Options, Program, Target
from steepest.discover.baselines import continued_fraction, known_exp2, polynomial
from steepest.discover.mutate import random_constants
from steepest.discover.polish import exact_errors, polish
from steepest.discover.search import ProgramProblem

TARGET = Target("exp2")
METHODS = {"fit": Options(), "cma": Options(constants="cma", iterations=1000)}


def structures() -> dict[str, tuple[Program, float]]:
    """Return name to structure and the error of its best constants, as far as several fits and `polish` find them."""
    given = {
        "polynomial, degree 3": polynomial([1.0, 0.7, 0.2, 0.05]),
        "continued fraction, order 2": continued_fraction(2),
        "published, 10 operations": known_exp2(),
    }
    return {name: (program, best_error(program)) for name, program in given.items()}


def best_error(program: Program) -> float:
    """Return the largest error of the best constants."""
    problem = ProgramProblem(TARGET, Options(starts=200))
    near = problem.evaluate(program, np.random.default_rng(0)).genome
    errors = exact_errors(polish(near, TARGET), TARGET, TARGET.points(200))
    return max(float(max(abs(e) for e in errors)), 1e-15)


def attempt(problem: ProgramProblem, program: Program, seed: int) -> tuple[float, float]:
    """Return the error found from random constants, and the processor seconds spent."""
    rng = np.random.default_rng(seed)
    start = program.with_constants(random_constants(rng, 1, len(program.constants))[0])
    began = time.process_time()
    member = problem.evaluate(start, rng)
    return 10 ** member.objectives[0], time.process_time() - began


def main() -> None:
    """Try, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    problems = {name: ProgramProblem(TARGET, options) for name, options in METHODS.items()}
    rows = []
    for name, (program, best) in structures().items():
        for method, problem in problems.items():
            attempt(problem, program, 0)
            tried = [attempt(problem, program, seed) for seed in range(1, arguments.seeds + 1)]
            row = {
                "structure": name,
                "method": method,
                "best_error": best,
                "found": sum(error < 2 * best for error, _ in tried),
                "of": arguments.seeds,
                "median_error": statistics.median(error for error, _ in tried),
                "median_seconds": statistics.median(seconds for _, seconds in tried),
            }
            rows.append(row)
            print(row, flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({**machine(), "attempts": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

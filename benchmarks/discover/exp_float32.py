# SPDX-License-Identifier: Apache-2.0
"""Search float32 programs for e^t on the reduced interval, check them on every float32, time the whole kernels.

    python benchmarks/discover/exp_float32.py search --seconds 3600 --checkpoint exp32.json
    python benchmarks/discover/exp_float32.py check --checkpoint exp32.json --out checked.json
    python benchmarks/discover/exp_float32.py time --checked checked.json --out benchmarks/results/NAME.json

The search begins with random programs. `check` and `time` put what it found beside the kernels' own polynomial, and
`time` runs all kernels in turns in one process.
"""

import argparse
import json
import pathlib
from dataclasses import asdict

import numpy as np

from steepest.bench.timing import machine
from steepest.discover import Options, Program, Settings, Target
from steepest.discover.float32 import Float32Problem, exhaustive, largest_error, tune
from steepest.discover.kernel import compare_speed, exp_loop, house_exp
from steepest.discover.program import PORT
from steepest.evolve import evolve
from steepest.evolve.engine import load

TARGET = Target("exp")
SETTINGS = Settings(population=100, children=120, generations=100_000, seed=0)


def problem() -> Float32Problem:
    """Return the search's problem."""
    operations = ("fma", "mul", "add", "square")
    options = Options(operations, PORT, max_cost=8.0, starts=6)
    return Float32Problem(TARGET, options, tries=150)


def search(arguments: argparse.Namespace) -> None:
    """Search, or go on."""
    settings = Settings(**{**asdict(SETTINGS), "seconds": arguments.seconds})
    state = evolve(problem(), settings, checkpoint=arguments.checkpoint)
    for member in state.front:
        print(member.objectives, member.genome.key)


def check(arguments: argparse.Namespace) -> None:
    """Tune the front's last bits and try every float32."""
    state = load(problem(), SETTINGS, arguments.checkpoint)
    x = np.linspace(*TARGET.ends, 50001, dtype=np.float32)
    programs = {"steepest.kernels, degree 6": house_exp()}
    for member in state.front:
        if member.objectives[0] > arguments.most_ulp:
            continue
        tuned = [tune(member.genome, TARGET, tries=arguments.tries, points=1500, seed=s) for s in range(2)]
        best = min([member.genome, *tuned], key=lambda p: largest_error(p, TARGET, x))
        programs[f"found, cost {member.objectives[1]:g}"] = best
    rows = []
    for name, program in programs.items():
        found = exhaustive(program, TARGET, smallest=arguments.smallest)
        rows.append({"name": name, "program": program.to_json(), "cost": program.cost(PORT), **asdict(found)})
        print(name, found, flush=True)
    content = {**machine(), "smallest": arguments.smallest, "programs": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def kernel_ulp(program: Program) -> float:
    """Return the whole kernel's largest error on two million evenly spaced normal results."""
    x = np.linspace(-87.3, 88.7, 2_000_001, dtype=np.float32)
    out = np.empty_like(x)
    exp_loop(program)(x, out)
    want = np.exp(x.astype(np.float64))
    return float((np.abs(out - want) / np.exp2(np.floor(np.log2(want)) - 23)).max())


def measure(arguments: argparse.Namespace) -> None:
    """Time whole kernels in turns and write the record."""
    content = json.loads(arguments.checked.read_text())
    programs = {row["name"]: Program.from_json(row["program"]) for row in content["programs"]}
    times = compare_speed({name: exp_loop(program) for name, program in programs.items()}, rounds=arguments.rounds)
    for row in content["programs"]:
        fastest, median = times[row["name"]]
        row |= {
            "ns_per_element": median,
            "ns_fastest": fastest,
            "kernel_ulp_sampled": kernel_ulp(programs[row["name"]]),
        }
        print(f"{row['name']:28} {row['ulp']:.3f} ulp  {median:.4f} ns")
    arguments.out.write_text(json.dumps({**machine(), **content}, indent=1) + "\n")


def main() -> None:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("search")
    one.add_argument("--seconds", type=float, default=3600.0)
    one.add_argument("--checkpoint", type=pathlib.Path, required=True)
    one.set_defaults(run=search)
    two = parts.add_parser("check")
    two.add_argument("--checkpoint", type=pathlib.Path, required=True)
    two.add_argument("--out", type=pathlib.Path, required=True)
    two.add_argument("--tries", type=int, default=3000)
    two.add_argument("--most-ulp", type=float, default=20.0)
    two.add_argument("--smallest", type=float, default=0.0)
    two.set_defaults(run=check)
    three = parts.add_parser("time")
    three.add_argument("--checked", type=pathlib.Path, required=True)
    three.add_argument("--out", type=pathlib.Path, required=True)
    three.add_argument("--rounds", type=int, default=200)
    three.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()

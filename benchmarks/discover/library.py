# SPDX-License-Identifier: Apache-2.0
"""Make the library of programs that ships with the package, its record and its figures, from checkpoints of searches.

    steepest discover exp2 --generations 6000 --population 300 --children 300 --workers 2 --out found/exp2
    python benchmarks/discover/library.py found/exp2/checkpoint.json ... --figures docs/images

The first line is given once for each function. Each program is polished and certified anew. The record holds the front
of every function beside the textbooks'.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import platform

from steepest.discover import Program, Target
from steepest.discover.baselines import fronts, known_exp2
from steepest.discover.found import Found, prove, sampled_error, sort_front
from steepest.discover.plot import draw_fronts

LIBRARY = pathlib.Path(__file__).parents[2] / "src" / "steepest" / "discover" / "library"
PACKAGES = ("numpy", "numba", "scipy", "mpmath", "python-flint")


def processor() -> str:
    """Return the processor's name."""
    text = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def about(path: pathlib.Path) -> dict:
    """Return where the programs of a checkpoint come from."""
    checkpoint = json.loads(path.read_text())
    return {
        "date": datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat(),
        "processor": processor(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": checkpoint["run"]["seed"],
        "population": checkpoint["run"]["population"],
        "children": checkpoint["run"]["children"],
        "evaluations": checkpoint["evaluations"],
        "search": checkpoint["run"]["problem"],
    }


def front_of(path: pathlib.Path) -> tuple[Target, list[Found]]:
    """Return the target of a checkpoint and its best programs, proven."""
    content = json.loads(path.read_text())
    problem = content["run"]["problem"]
    target = Target(problem["function"], tuple(problem["interval"]), problem["measure"])
    by_cost: dict[float, list] = {}
    for member in content["members"]:
        error, cost = (float.fromhex(v) for v in member["objectives"])
        by_cost.setdefault(cost, []).append((error, member["genome"]))
    best = [min(members, key=lambda m: m[0]) for members in by_cost.values()]
    proven = [prove(Program.from_json(genome), target) for error, genome in best if error < 0]
    front = sort_front(item for item in proven if item.certificate is not None)
    facts = about(path)
    return target, [Found(**{**item.__dict__, "about": facts}) for item in front]


def record(target: Target, front: list[Found], most: int, figures: pathlib.Path) -> dict:
    """Draw a function's front beside the textbooks' and return the numbers."""
    series = {"found": [(item.cost, item.certificate.bound) for item in front if item.certificate]}
    for name, programs in fronts(target, most).items():
        series[name] = [(p.cost(), sampled_error(p, target)) for p in programs]
    stars = {}
    if target.name == "exp2":
        known = prove(known_exp2(), target)
        assert known.certificate is not None
        stars = {
            "published error": (10.0, 10.0**-14.3),
            "published program, constants polished here": (known.cost, known.certificate.bound),
        }
    title = f"{target.name} on [{target.ends[0]:g}, {target.ends[1]:g}], {target.measure} error"
    draw_fronts(series, figures / f"discover_{target.name}.png", title=title, stars=stars)
    return {"interval": target.ends, "measure": target.measure, "fronts": series, "stars": stars}


def main() -> None:
    """Read checkpoints, write library, record and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=pathlib.Path)
    parser.add_argument("--figures", type=pathlib.Path, required=True)
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    results = {}
    for path in arguments.checkpoints:
        target, front = front_of(path)
        text = json.dumps([item.to_json() for item in front], indent=1) + "\n"
        (LIBRARY / f"{target.name}.json").write_text(text)
        results[target.name] = record(target, front, arguments.most, arguments.figures)
        print(target.name, [f"{item.cost:g}: {item.certificate.bound:.2e}" for item in front if item.certificate])
    if arguments.out:
        facts = about(arguments.checkpoints[0])
        shared = {key: facts[key] for key in ("date", "processor", "python", "packages")}
        arguments.out.write_text(json.dumps({**shared, "functions": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

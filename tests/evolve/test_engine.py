import importlib.util
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from steepest.evolve import Processes, RayCluster, Serial, Settings, evolve
from tests.evolve import two_parabolas
from tests.evolve.two_parabolas import SETTINGS, TwoParabolas, answer


@pytest.fixture(scope="module")
def undisturbed():
    return answer(evolve(TwoParabolas(), SETTINGS))


def test_finds_the_known_front(undisturbed):
    x = np.array([genome for genome, _ in undisturbed])
    assert ((x > -0.05) & (x < 1.05)).all()
    assert np.ptp(x) > 0.8


def test_two_workers_give_the_same_members(undisturbed):
    pool = Processes(2)
    try:
        assert answer(evolve(TwoParabolas(), SETTINGS, workers=pool)) == undisturbed
    finally:
        pool.close()


def test_another_seed_gives_others(undisturbed):
    assert answer(evolve(TwoParabolas(), replace(SETTINGS, seed=6))) != undisturbed


def test_killed_and_resumed_is_the_same(tmp_path, undisturbed):
    path = tmp_path / "checkpoint.json"
    done = subprocess.run([sys.executable, "-m", two_parabolas.__name__, str(path)], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    generations = []
    state = evolve(TwoParabolas(), SETTINGS, checkpoint=path, report=lambda s: generations.append(s.generation))
    assert generations == list(range(8, 13))
    assert answer(state) == undisturbed
    assert state.evaluations == 12 * 20


def test_a_finished_run_is_read_back_and_may_be_prolonged(tmp_path, undisturbed):
    path = tmp_path / "checkpoint.json"
    evolve(TwoParabolas(), replace(SETTINGS, generations=4), checkpoint=path)
    assert answer(evolve(TwoParabolas(), SETTINGS, checkpoint=path)) == undisturbed
    assert answer(evolve(TwoParabolas(), SETTINGS, checkpoint=path)) == undisturbed


def test_seconds_stop_a_run():
    assert evolve(TwoParabolas(), replace(SETTINGS, seconds=1e-9)).generation == 1


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint.json"
    evolve(TwoParabolas(), replace(SETTINGS, generations=1), checkpoint=path)
    with pytest.raises(ValueError, match=r"another search.*seed: 5 there, 9 asked"):
        evolve(TwoParabolas(), replace(SETTINGS, seed=9), checkpoint=path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no checkpoint"):
        evolve(TwoParabolas(), SETTINGS, checkpoint=path)


@pytest.mark.parametrize(
    "bad", [{"generations": 0}, {"children": 0}, {"population": 0}, {"seconds": 0.0}, {"seed": -1}]
)
def test_budgets_of_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=r"at least 1|positive|negative"):
        Settings(**bad)


def test_workers_keep_the_order():
    assert Serial().map(abs, [-1, 2, -3]) == [1, 2, 3]
    with pytest.raises(ValueError, match="at least 1"):
        Processes(0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra")
@pytest.mark.filterwarnings("ignore")
def test_a_local_ray_cluster_gives_the_same_members(undisturbed):
    pool = RayCluster(count=2)
    try:
        assert answer(evolve(TwoParabolas(), SETTINGS, workers=pool)) == undisturbed
    finally:
        pool.close()

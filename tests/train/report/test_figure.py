import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from steepest.train.report.figure import loss_range, spread, write_loss_figure
from steepest.train.report.metrics import Metrics
from steepest.train.report.palette import TRAIN, VALIDATION
from steepest.train.report.run import Run, read_run
from tests.train.report.run_folder import SUMMARY, make_run


def has_color(picture, color):
    wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool((np.abs(picture[..., :3] - wanted).max(axis=-1) < 0.02).sum() > 50)


@pytest.mark.parametrize("live", [False, True])
def test_the_picture_has_its_size_and_its_curves(tmp_path, live):
    path = write_loss_figure(make_run(tmp_path / "run", live=live))
    picture = imread(path)
    assert picture.shape[:2] == (750, 1200)
    assert has_color(picture, TRAIN)
    assert has_color(picture, VALIDATION)


def test_the_same_run_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    run = make_run(tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    first = write_loss_figure(run).read_bytes()
    assert write_loss_figure(run).read_bytes() == first
    assert {path.name for path in run.iterdir()} - before == {"loss.png"}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_runs_that_have_hardly_begun(tmp_path, steps):
    assert imread(write_loss_figure(make_run(tmp_path / "run", live=True, steps=steps))).shape[:2] == (750, 1200)


def test_a_name_with_dollar_signs_is_text(tmp_path):
    write_loss_figure(make_run(tmp_path / r"a$\frac$b"))


def test_the_callers_matplotlib_is_left_alone(tmp_path):
    make_run(tmp_path / "run")
    code = (
        "import sys, matplotlib as m\n"
        "seen = lambda: {key: m.rcParams[key] for key in m.rcParams if key != 'backend'}; before = seen()\n"
        "from steepest.train.report import write_loss_figure\n"
        f"write_loss_figure({str(tmp_path / 'run')!r})\n"
        "assert seen() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_view_holds_the_end_and_every_baseline_but_not_the_first_steps(tmp_path):
    run = read_run(make_run(tmp_path / "run"))
    low, high = loss_range(run)
    assert low < run.metrics.eval["bits_per_byte"].min()
    assert max(SUMMARY["baselines"].values()) < high < run.metrics.train["bits_per_byte"][0]


def test_nothing_finite_has_no_view(tmp_path):
    column = {"bits_per_byte": np.array([np.nan, np.inf])}
    run = Run(tmp_path, Metrics(train=column, eval={"bits_per_byte": np.array([])}), {}, {}, None, None)
    assert loss_range(run) is None


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.2))
def test_spread_labels_are_apart_and_in_balance(places, gap):
    places = sorted(places)
    moved = spread(places, gap)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(moved))
    assert sum(moved) == pytest.approx(sum(places), abs=1e-9)  # least squares moves no centre of gravity


def test_spread_leaves_labels_with_room_where_they_are():
    assert spread([0.1, 0.3, 0.9], gap=0.1) == pytest.approx([0.1, 0.3, 0.9])

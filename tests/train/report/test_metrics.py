import json

import numpy as np
import pytest

from steepest.train.report.metrics import last, read_metrics, smooth, thin
from tests.train.report.run_folder import make_run, metrics_lines


def test_columns_hold_what_the_lines_say(tmp_path):
    metrics = read_metrics(make_run(tmp_path / "run", steps=80))
    assert metrics.train["step"].tolist() == list(range(1, 81))
    assert metrics.eval["step"].tolist() == [40, 80]
    rows = [json.loads(line) for line in metrics_lines(80)]
    assert metrics.train["lr"].tolist() == [row["lr"] for row in rows if row["kind"] == "train"]
    assert not metrics.truncated


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_half_a_last_line_is_left_out_and_reported(tmp_path, cut):
    run = make_run(tmp_path / "run", steps=39)
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    metrics = read_metrics(run)
    assert metrics.truncated
    assert metrics.train["step"].tolist() == list(range(1, 39))


def test_a_whole_last_line_without_its_newline_counts(tmp_path):
    run = make_run(tmp_path / "run", steps=39)
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    metrics = read_metrics(run)
    assert not metrics.truncated
    assert len(metrics.train["step"]) == 39


@pytest.mark.parametrize(
    "damage", ['{"kind": "tr', "[1, 2]", '{"kind": "other", "step": 1}', '{"kind": "eval", "step": "3"}']
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    run = make_run(tmp_path / "run", steps=20)
    lines = metrics_lines(20)
    lines[6] = damage
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:7: expected"):
        read_metrics(run)


def test_steps_done_again_after_a_resume_count_once(tmp_path):
    run = make_run(tmp_path / "run")
    first, second = metrics_lines(50, seed=1), metrics_lines(60, seed=2)
    again = [line for line in second if json.loads(line)["step"] > 30]
    (run / "metrics.jsonl").write_text("\n".join([*first, *again]) + "\n")
    metrics = read_metrics(run)
    assert metrics.train["step"].tolist() == list(range(1, 61))
    expected = [json.loads(line)["loss"] for line in again if json.loads(line)["kind"] == "train"]
    assert metrics.train["loss"][30:].tolist() == expected
    assert metrics.eval["step"].tolist() == [40]


def test_an_empty_log_and_missing_values(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    assert len(read_metrics(tmp_path).train["step"]) == 0
    row = {"kind": "train", "step": 1, "tokens": 5, "seconds": 1.0}
    path.write_text(
        json.dumps(row | {"bits_per_byte": None})
        + "\n"
        + json.dumps(row | {"step": 2, "bits_per_byte": float("nan")})
        + "\n"
    )
    assert np.isnan(read_metrics(tmp_path).train["bits_per_byte"]).tolist() == [True, True]


def test_smooth_keeps_lines_straight_where_its_window_is_symmetric():
    line = np.linspace(5.0, 1.0, 101)
    np.testing.assert_allclose(smooth(line, 7)[:94], line[:94], rtol=1e-12)


def test_smooth_is_the_mean_of_its_window_and_skips_what_is_not_finite():
    values = np.array([1.0, np.nan, 4.0, np.inf, 8.0])
    np.testing.assert_allclose(smooth(values, 1), [1.0, 2.5, 4.0, 6.0, 8.0])
    np.testing.assert_array_equal(smooth(values, 0), [1.0, np.nan, 4.0, np.nan, 8.0])
    with pytest.raises(ValueError, match="at least 0"):
        smooth(values, -1)


@pytest.mark.parametrize(("n", "most"), [(0, 2), (1, 2), (10, 10), (11, 10), (100_000, 2000)])
def test_thin_keeps_the_ends(n, most):
    kept = thin(n, most)
    assert len(kept) == min(n, most)
    assert n == 0 or (kept[0] == 0 and kept[-1] == n - 1)
    assert (np.diff(kept) > 0).all()


def test_last_finite_value():
    assert last(np.array([1.0, 2.0, np.nan])) == 2.0
    assert last(np.array([np.nan])) is None
    assert last(None) is None


@pytest.mark.parametrize("step", ["1e999", "NaN", "-1e999", "1" + "0" * 400])
def test_a_step_that_is_no_count_is_refused(tmp_path, step):
    row = f'{{"kind": "layers", "step": {step}, "tokens": 1, "seconds": 0.5, "bits_per_byte": 3.0, "layers": {{}}}}\n'
    (tmp_path / "metrics.jsonl").write_text(row * 2)
    with pytest.raises(ValueError, match="expected a step below"):
        read_metrics(tmp_path)

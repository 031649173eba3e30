import html.parser
import json
import re

import pytest

from steepest.train.report import html as pieces
from steepest.train.report import write_comparison, write_html_report
from steepest.train.report.layers import layer_charts
from steepest.train.report.page import render
from steepest.train.report.run import read_run
from tests.train.report.run_folder import SUMMARY, make_run

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Page(html.parser.HTMLParser):
    """What a browser would find: elements with attributes, script bodies, text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.scripts, self.text, self._stack = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input", "br", "img"}:
            self._stack.append(tag)

    def handle_endtag(self, tag):
        assert self._stack.pop() == tag

    def handle_data(self, data):
        (self.scripts if self._stack and self._stack[-1] == "script" else self.text).append(data)

    @property
    def visible(self):
        return "".join(self.text)


def hostile(folder):
    run = make_run(folder)
    summary = SUMMARY | {"baselines": {ATTACK: 2.0}, "time_split": {ATTACK: 3.0}, "status": ATTACK}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "sample.txt").write_text(ATTACK)
    (run / "config.json").write_text(json.dumps({ATTACK: {ATTACK: [ATTACK]}, "plain": ATTACK}))
    (run / "environment.json").write_text(json.dumps({ATTACK: ATTACK}))
    return run


def pages(tmp_path):
    one = hostile(tmp_path / "<script>alert(2)<" / "script>")
    two = make_run(tmp_path / "two")
    return write_html_report(one), write_comparison([one, two], tmp_path / "both.html")


def test_no_text_of_a_user_becomes_markup(tmp_path):
    for path in pages(tmp_path):
        page = Page(path.read_text())
        tags = [tag for tag, _ in page.elements]
        assert tags.count("script") == 3  # data, plotly, ours
        assert "img" not in tags
        assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
        assert ATTACK in page.visible
        data = json.loads(page.scripts[0])
        names = [level["name"] for chart in data["charts"] if chart for level in chart["levels"]]
        assert names in ([ATTACK], [])


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    page = Page(write_html_report(make_run(tmp_path / "run")).read_text())
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "data:,") == "data:,", (tag, attributes)
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "@import" not in page.visible


def test_json_block_round_trips_and_holds_no_markup():
    value = {"a": ATTACK, "b": ["<!--", "]]>", "\u2028", 1.5, None]}
    block = pieces.json_block("x", value)
    inside = re.fullmatch(r'<script type="application/json" id="x">(.*)</script>', block).group(1)
    assert json.loads(inside) == value
    assert not set("<>&\u2028") & set(inside)
    with pytest.raises(ValueError, match="JSON compliant"):
        pieces.json_block("x", float("nan"))


def test_a_finished_run_shows_its_numbers(tmp_path):
    seen = Page(write_html_report(make_run(tmp_path / "run")).read_text()).visible
    for expected in ("1.826", "16.5% below the best baseline, 5-gram", "2.214 (−17.5%)", "4.81 M", "3:07", "870 MiB"):
        assert expected in seen
    assert "It was the best of times" in seen
    assert "backward" in seen
    assert "has not written its summary" not in seen


def test_a_model_worse_than_its_baselines_is_said_to_be(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"bits_per_byte": 2.4}))
    assert "9.7% above the best baseline, 5-gram" in write_html_report(run).read_text()


def test_an_interrupted_run_falls_back_to_what_was_measured(tmp_path):
    run = make_run(tmp_path / "run", live=True, steps=50)
    absent = {"status": "interrupted", "steps": 50, "bits_per_byte": None, "best_bits_per_byte": None}
    (run / "summary.json").write_text(json.dumps(absent))
    seen = Page(write_html_report(run).read_text()).visible
    assert "This run is interrupted" in seen
    last_evaluation = json.loads((run / "metrics.jsonl").read_text().splitlines()[40])
    assert last_evaluation["kind"] == "eval"
    assert f"{last_evaluation['bits_per_byte']:.3f}" in seen
    assert "No baseline was measured." in seen


@pytest.mark.parametrize("steps", [0, 1, 60])
def test_a_live_run_says_so_and_shows_what_is_there(tmp_path, steps):
    run = make_run(tmp_path / "run", live=True, steps=steps)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')
    for name in ("config.json", "environment.json"):
        (run / name).unlink()
    seen = Page(write_html_report(run).read_text()).visible
    assert "has not written its summary" in seen
    assert "ends in the middle of a line" in seen
    assert "has no sample.txt yet" in seen
    assert "has no config.json" in seen
    assert ("No evaluation yet." in seen) == (steps < 40)


def test_values_that_are_not_finite_leave_gaps(tmp_path):
    run = make_run(tmp_path / "run", live=True)
    path = run / "metrics.jsonl"
    path.write_text(re.sub(r'"grad_norm": [\d.]+', '"grad_norm": NaN', path.read_text(), count=3))
    data = json.loads(Page(write_html_report(run).read_text()).scripts[0])
    assert data["charts"][2]["curves"][0]["y"][:4][:3] == [None] * 3


def test_a_damaged_json_file_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: expected a JSON object"):
        write_html_report(run)
    (run / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match="got list"):
        write_html_report(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Not a run folder"):
        write_html_report(tmp_path)


def test_a_comparison_shows_final_numbers_and_what_differed(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", seed=2, floor=1.7)
    config = json.loads((two / "config.json").read_text())
    config["optim"]["name"] = "adamw"
    (two / "config.json").write_text(json.dumps(config))
    (two / "summary.json").write_text(json.dumps(SUMMARY | {"bits_per_byte": 1.9305}))
    page = Page(write_comparison([one, two], tmp_path / "both.html").read_text())
    assert "1.8260" in page.visible
    assert "1.9305" in page.visible
    assert "optim.name" in page.visible
    assert "optim.lr" not in page.visible
    data = json.loads(page.scripts[0])
    assert [curve["name"] for curve in data["charts"][0]["curves"]] == ["one", "two"]
    assert len(data["charts"][0]["levels"]) == 3


def test_a_comparison_over_different_texts_draws_no_baseline(tmp_path):
    one, two = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    (two / "summary.json").write_text(json.dumps(SUMMARY | {"baselines": {"xz -9": 1.5}}))
    data = json.loads(Page(write_comparison([one, two], tmp_path / "both.html").read_text()).scripts[0])
    assert data["charts"][0]["levels"] == []
    assert [curve["name"] for curve in data["charts"][0]["curves"]] == ["a/run", "b/run"]


def test_a_comparison_needs_two_runs_and_a_folder_to_write_to(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    with pytest.raises(ValueError, match="at least 2"):
        write_comparison([one], tmp_path / "x.html")
    with pytest.raises(ValueError, match="one twice"):
        write_comparison([one, tmp_path / "two" / ".." / "one"], tmp_path / "x.html")
    with pytest.raises(FileNotFoundError, match="No such folder"):
        write_comparison([one, two], tmp_path / "missing" / "x.html")


def test_recorded_layers_get_a_chart_of_each_quantity(tmp_path):
    folder = make_run(tmp_path / "run")
    matrix = {"update_to_weight": 0.01, "spectral_norm": 2.0, "effective_rank": 9.0}
    layers = {
        "a": matrix,
        "b": {**matrix, "spectral_norm": 4.0},
        "gain": {"update_to_weight": 5.0, "effective_rank": 1.0},
    }
    row = {"kind": "layers", "layers": layers, "tokens": None, "seconds": None, "bits_per_byte": None}
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({**row, "step": step}) + "\n" for step in (100, 200))
    charts = layer_charts({"median": (read_run(folder).metrics.layers, 0)}, each=True)
    assert [chart.title.split(",")[0] for chart in charts] == [
        "Update to weight", "Spectral norm of the weights", "Effective rank of the gradients",
    ]  # fmt: skip
    assert [curve.name for curve in charts[1].curves] == ["a", "b", "median"]
    assert charts[1].curves[-1].y.tolist() == [3.0, 3.0]  # the gain is no matrix
    assert charts[0].curves[-1].y.tolist() == [0.01, 0.01]
    assert "Spectral norm of the weights" in render(read_run(folder))


def test_a_planned_run_shows_what_was_predicted(tmp_path):
    run = make_run(tmp_path / "run")
    plan = {
        "predicted_step_seconds": 0.5,
        "measured_step_seconds": 0.625,
        "predicted_peak_bytes": 2**31,
        "limit_bytes": 2**32,
    }
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"plan": plan}))
    seen = Page(render(read_run(run))).visible
    for text in ("planned step0.5 s", "measured step0.625 s", "planned memory2.00 GiB", "memory limit4.00 GiB"):
        assert text in seen
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"plan": {"predicted_step_seconds": ATTACK}}))
    assert "planned step" not in Page(render(read_run(run))).visible

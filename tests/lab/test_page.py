"""The page of a comparison, finished and going, made of run folders that were written for the purpose."""

import json
import re

import pytest

from steepest.lab import Comparison, base_config, methods_of, outcome, write
from steepest.lab.page import write_page
from steepest.lab.search import due
from steepest.lab.table import cells
from steepest.lab.trial import folder_of
from tests.train.report.run_folder import make_run
from tests.train.report.test_browser import CHROMIUM, browse


def made_up(root, *, until="final") -> Comparison:
    """A comparison of runs that never ran; with `until="search"` its final runs are missing."""
    methods = methods_of(["adamw", "muon"])
    comparison = Comparison(run=base_config("nano", 400), methods=methods, baseline="adamw", extra_trials=0)
    write(comparison, root)
    losses: dict[str, float] = {}
    for _ in range(2):
        for trial in due(comparison, losses):
            if trial.name in losses or (until == "search" and trial.stage == "final"):
                continue
            loss = 1.8 + 0.01 * trial.number + 0.05 * trial.seed - 0.1 * (trial.method == "muon")
            if trial.stage == "final":
                make_run(folder_of(root, trial), seed=trial.seed)
            folder_of(root, trial).mkdir(parents=True, exist_ok=True)
            result = {"digest": comparison.digest, "status": "finished", "loss": loss}
            (folder_of(root, trial) / "result.json").write_text(json.dumps(result))
            losses[trial.name] = loss
    return comparison


def test_a_page_holds_the_table_the_rules_and_the_figures(tmp_path):
    comparison = made_up(tmp_path)
    page, png, svg, table = write_page(tmp_path, comparison)
    text = page.read_text()
    for cell in cells(outcome(tmp_path, comparison))[0][:3]:
        assert cell in text
    assert comparison.digest in text
    assert len(re.findall(r'id="chart-\d+"', text)) == 5
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in svg.read_bytes()
    rows = json.loads(table.read_text())["rows"]
    assert [row["name"] for row in rows] == ["muon", "adamw"]
    assert rows[0]["p"] == 0.0  # the differences of all seeds are equal
    again = svg.read_bytes()
    write_page(tmp_path, comparison)
    assert svg.read_bytes() == again


def test_a_comparison_that_is_going_gets_a_page_that_says_so(tmp_path):
    page = write_page(tmp_path, made_up(tmp_path, until="search"))[0]
    assert "The comparison is not finished" in page.read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check pages in a browser")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_draws_without_a_request_or_a_complaint(tmp_path, width):
    page = write_page(tmp_path / "c", made_up(tmp_path / "c"))[0]
    document, complaints, asked = browse(page, tmp_path, width)
    assert 'data-drawn="yes"' in document
    assert document.count('class="main-svg"') >= 5
    assert "CONSOLE" not in complaints
    assert not asked

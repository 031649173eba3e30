"""The page of a comparison, finished and going, made of run folders that were written for the purpose."""

import html
import json
import re
import subprocess

import pytest

from steepest.lab import Comparison, base_config, methods_of, outcome, write
from steepest.lab.page import write_page
from steepest.lab.search import due
from steepest.lab.table import cells
from steepest.lab.trial import folder_of
from tests.train.report.run_folder import make_run
from tests.train.report.test_browser import CHROMIUM, FLAGS, browse


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


#: Presses every button of the axis switch, measures the page, and tells the page around it.
PROBE = """<script>
addEventListener("load", async () => {
  const wait = () => new Promise((done) => setTimeout(done, 150));
  const found = { width: innerWidth, axes: {}, panels: document.querySelectorAll("figure .main-svg").length };
  await wait();
  for (const input of document.querySelectorAll('input[name="axis"]')) {
    input.click();
    await wait();
    const place = document.getElementById("chart-0");
    found.axes[input.value] = [place.layout.xaxis.title.text, Math.max(...place.data.at(-1).x)];
  }
  found.scroll = document.documentElement.scrollWidth;
  const texts = [...document.querySelectorAll("p, td, th, figcaption, .main-svg text")];
  const sizes = texts.filter((e) => e.textContent.trim());
  found.smallest = Math.min(...sizes.map((e) => parseFloat(getComputedStyle(e).fontSize)));
  found.wide = [...document.querySelectorAll("figure")].filter((f) => f.scrollWidth > f.clientWidth + 1).length;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
AROUND = """<body style="margin:0"><iframe style="border:0;width:{width}px;height:3000px" src="page.html"></iframe>
<pre id="probe"></pre><script>addEventListener("message", (event) => {{
  document.getElementById("probe").textContent = event.data;
}});</script></body>"""


def with_layers(root):
    """Give every final run records of its layers."""
    for folder in root.glob("runs/*-final-*"):
        with (folder / "metrics.jsonl").open("a") as file:
            for step in range(80, 401, 80):
                layer = {
                    "update_to_weight": 1 / step,
                    "spectral_norm": 2.0 + step / 400,
                    "effective_rank": 20.0 - step / 40,
                }
                row = {
                    "kind": "layers",
                    "step": step,
                    "layers": {"a": layer, "b": {**layer, "update_effective_rank": 9.0}},
                }
                file.write(json.dumps({**row, "tokens": None, "seconds": None, "bits_per_byte": None}) + "\n")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check pages in a browser")
@pytest.mark.parametrize("width", [1280, 400])
def test_switches_work_and_nothing_is_cut_off_at_a_width(tmp_path, width):
    comparison = made_up(tmp_path / "c")
    with_layers(tmp_path / "c")
    page = write_page(tmp_path / "c", comparison)[0].read_text()
    # The page forbids scripts other than its own; the probe is one.
    page = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page)
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    # A window has a least width; a frame has not.
    (tmp_path / "around.html").write_text(AROUND.format(width=width))
    document, complaints, _ = browse(tmp_path / "around.html", tmp_path, 1400)
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.+?)</pre>', document)[1]))
    assert "CONSOLE" not in complaints
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["wide"] == 0
    assert found["smallest"] >= 10
    assert found["panels"] >= 9  # five of the comparison, four of the layers
    titles = {axis: title for axis, (title, _) in found["axes"].items()}
    assert titles["tokens"] == "training tokens"
    assert titles["seconds"] == "seconds"
    ends = {axis: end for axis, (_, end) in found["axes"].items()}
    assert (ends["step"], ends["tokens"]) == (400, 400 * 8192)
    assert ends["flops"] == pytest.approx(400 * 8192 * 5.2e11 / 17_500)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check pages in a browser")
def test_the_page_prints(tmp_path):
    page = write_page(tmp_path / "c", made_up(tmp_path / "c"))[0]
    flags = [flag for flag in FLAGS if flag != "--dump-dom"]
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={tmp_path / 'page.pdf'}"]
    subprocess.run([str(CHROMIUM), *flags, *places, page.as_uri()], capture_output=True, timeout=120, check=True)
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2


def test_following_draws_until_the_comparison_is_finished(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from steepest.cli import build_app, report

    made_up(tmp_path, until="search")
    waits = []

    def sleep(seconds):
        assert "The comparison is not finished" in (tmp_path / "report.html").read_text()
        waits.append(seconds)
        made_up(tmp_path)

    monkeypatch.setattr(report.time, "sleep", sleep)
    done = CliRunner().invoke(
        build_app(), ["report", str(tmp_path), "--follow", "--every", "3"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert waits == [3.0]
    assert "The comparison is not finished" not in (tmp_path / "report.html").read_text()

"""The pages in a real browser: they draw, ask for nothing and complain about nothing."""

import json
import re
import shutil
import subprocess

import pytest

from steepest.train.report import write_comparison, write_html_report
from tests.train.report.run_folder import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No name resolves, so that nothing leaves the machine: neither of the page nor of the browser's own housekeeping.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
    "--dump-dom",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check pages in a browser"),
]


def browse(page, folder, width):
    """Return the document after its scripts ran, what the browser logged, and the addresses that the page asked for."""
    log = folder / "network.json"
    places = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--window-size={width},2000"]
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, *places, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own requests have no page as their initiator.
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return done.stdout, done.stderr, {url for url in asked if not url.startswith(("data:", "blob:"))}


@pytest.mark.parametrize(("kind", "width"), [("finished", 1280), ("live", 500), ("comparison", 1280)])
def test_a_page_draws_without_a_request_or_a_complaint(tmp_path, kind, width):
    one = make_run(tmp_path / "one", live=kind == "live", steps=70)
    page = write_html_report(one)
    if kind == "comparison":
        page = write_comparison([one, make_run(tmp_path / "two", seed=1)], tmp_path / "both.html")
    document, complaints, asked = browse(page, tmp_path, width)
    assert 'data-drawn="yes"' in document
    charts = len(re.findall(r'id="chart-\d+"', document))
    assert charts == (4 if kind == "comparison" else 5)
    assert document.count('class="main-svg"') >= charts
    assert "CONSOLE" not in complaints
    assert not asked


def test_a_page_that_asks_and_complains_would_be_caught(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://steepest.invalid/x.png"><script>console.error("oh"); nothing()</script>')
    _, complaints, asked = browse(page, tmp_path, 1280)
    assert asked == {"http://steepest.invalid/x.png"}
    assert complaints.count("CONSOLE") >= 2

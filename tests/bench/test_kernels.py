import io
import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from steepest.bench import Record, kernels, peers, show


def test_every_case_makes_calls_that_agree():
    for case in kernels.cases(quick=True):
        calls = case.make()
        assert {"steepest", "torch"} <= calls.keys()
        ours, theirs = (calls[name]() for name in ("steepest", "torch"))
        for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2 if a.dtype.itemsize == 2 else 1e-3, atol=1e-3)


def test_names_choose_and_a_wrong_one_is_refused():
    assert {case.function for case in kernels.chosen(["exp"], quick=True)} == {"exp"}
    assert {case.group for case in kernels.chosen(["softmax", "gated"], quick=True)} == {"softmax", "gated"}
    assert len(kernels.chosen([], quick=True)) == len(kernels.cases(quick=True))
    with pytest.raises(ValueError, match="softmax"):
        kernels.chosen(["softmacks"], quick=True)


def small_record(monkeypatch):
    monkeypatch.setattr("steepest.bench.timing.copy_bandwidth", lambda: 1e10)
    record = Record("kernels")
    for name, scale in (("one", 1), ("two", 2)):
        calls = {"steepest": lambda: None, "torch": lambda s=scale: sum(range(100 * s))}
        record.compare(
            {"group": "g", "function": name, "shape": "8", "dtype": "float32"},
            calls,
            elements=8,
            bytes_moved=64,
            seconds=0.02,
        )
    return record


def test_a_record_is_saved_with_what_a_number_needs(tmp_path, monkeypatch):
    record = small_record(monkeypatch)
    path = record.save(tmp_path / "new")
    saved = json.loads(path.read_text())
    assert path.name == f"{record.stem}.json"
    assert saved["about"]["copy_bytes_per_second"] == 1e10
    assert [row["name"] for row in saved["rows"]] == ["steepest", "torch"] * 2
    row = saved["rows"][0]
    assert row["ns_per_element"] == pytest.approx(1e9 * row["seconds"] / 8)
    assert row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]


def test_the_table_and_the_figure_show_every_case(tmp_path, monkeypatch):
    record = small_record(monkeypatch)
    table = show.table(record)
    assert table.row_count == 2
    assert [column.header for column in table.columns][-1] == "torch"
    text = io.StringIO()
    Console(file=text, width=80).print(table)
    assert "…" not in text.getvalue()
    show.plot(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_processors_are_given_back():
    import os

    before = os.sched_getaffinity(0)
    with peers.processors(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_the_command_writes_where_it_is_told(tmp_path):
    options = ["--quick", "--only", "log1p", "--out", str(tmp_path / "o")]
    command = [sys.executable, "-m", "steepest", "bench", "kernels", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "log1p" in done.stdout
    assert {path.suffix for path in (tmp_path / "o").iterdir()} == {".json", ".png"}
    assert [path.name for path in tmp_path.iterdir()] == ["o"]

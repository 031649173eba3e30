"""Metrics of runs in other tools, read back with those tools."""

import csv
import json
import math

import pytest

from steepest.lab.exports import COLUMNS, export, rows_of, runs_of
from tests.cli.test_report import run as report
from tests.lab.test_page import made_up
from tests.train.report.run_folder import make_run


@pytest.fixture
def folder(tmp_path):
    folder = make_run(tmp_path / "one", steps=80)
    layers = {"head": {"update_to_weight": 0.25, "effective_rank": 3.0}}
    row = {"kind": "layers", "step": 40, "layers": layers, **dict.fromkeys(("tokens", "seconds", "bits_per_byte"))}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return folder


def wanted(folder):
    """What the file says, read without the package: (kind, step, layer, metric) -> value."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kind, step = row.pop("kind"), row.pop("step")
        for layer, values in row.pop("layers", {"": row}).items():
            for metric, value in values.items():
                if metric not in ("tokens", "seconds") and value is not None:
                    found[kind, step, layer, metric] = value
    return found


def test_a_csv_table_holds_every_measurement_to_the_last_bit(folder, tmp_path):
    path = export([folder], str(tmp_path / "all.csv"))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {(r["kind"], int(r["step"]), r["layer"], r["metric"]): float(r["value"]) for r in rows} == wanted(folder)
    assert {r["run"] for r in rows} == {"one"}
    at = next(r for r in rows if r["kind"] == "eval" and r["step"] == "40")
    assert (float(at["tokens"]), float(at["seconds"])) == (40 * 8192, 0.46 * 40 + 2.0)


def test_parquet_holds_the_same_with_types(folder, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    table = pq.read_table(export([folder, make_run(tmp_path / "two", steps=10)], str(tmp_path / "all.parquet")))
    assert [str(t) for t in table.schema.types] == ["string"] * 2 + ["int64"] + ["double"] * 2 + ["string"] * 2 + [
        "double"
    ]
    rows = [r for r in table.to_pylist() if r["run"] == "one"]
    assert {(r["kind"], r["step"], r["layer"], r["metric"]): r["value"] for r in rows} == wanted(folder)
    assert set(table.column("run").to_pylist()) == {"one", "two"}


def test_tensorboard_reads_it(folder, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    export([folder], f"tensorboard:{tmp_path / 'events'}")
    reader = events.EventAccumulator(str(tmp_path / "events" / "one"))
    reader.Reload()
    known = wanted(folder)
    read = {(e.step, e.value) for e in reader.Scalars("eval/bits_per_byte")}
    assert {step for step, _ in read} == {40, 80}
    for step, value in read:
        assert value == pytest.approx(known["eval", step, "", "bits_per_byte"], rel=1e-6)
    assert reader.Scalars("layers/head/effective_rank")[0].value == 3.0


@pytest.mark.filterwarnings("ignore")  # of the tool's own libraries
def test_mlflow_reads_it(folder, tmp_path):
    pytest.importorskip("mlflow.tracking", reason="needs mlflow-skinny")
    from mlflow.tracking import MlflowClient

    export([folder], f"mlflow:{tmp_path / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (one,) = client.search_runs([client.get_experiment_by_name("steepest").experiment_id])
    assert (one.info.run_name, one.info.status) == ("one", "FINISHED")
    assert one.data.params["optim.name"] == "muon"
    history = client.get_metric_history(one.info.run_id, "train/loss")
    known = wanted(folder)
    assert {m.step: m.value for m in history} == {
        s: v for (k, s, _, n), v in known.items() if (k, n) == ("train", "loss")
    }


@pytest.mark.filterwarnings("ignore")  # of the tool's own libraries
def test_wandb_keeps_it_offline(folder, tmp_path):
    pytest.importorskip("wandb", reason="needs wandb")
    export([folder], f"wandb:{tmp_path / 'w'}")
    assert list((tmp_path / "w" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_comparison_stands_for_its_runs_and_what_is_not_finite_is_left_out(tmp_path):
    made_up(tmp_path / "c")
    assert sorted(runs_of([tmp_path / "c"])) == [f"{m}-final-0{i}" for m in ("adamw", "muon") for i in range(3)]
    folder = make_run(tmp_path / "one", steps=3)
    (one,) = runs_of([folder]).values()
    one.metrics.train["loss"][1] = math.nan
    assert [row[2] for row in rows_of("one", one) if row[6] == "loss"] == [1, 3]


@pytest.mark.parametrize("to", ["metrics", "metrics.txt", "csv:a", "wandb:", "comet:a"])
def test_what_it_cannot_write_is_refused(folder, to):
    with pytest.raises(ValueError, match=r"expected a file \.csv or \.parquet"):
        export([folder], to)


def test_the_command_writes_and_draws_nothing(folder, tmp_path):
    done = report(folder, "--export", tmp_path / "a.csv", "--export", tmp_path / "b.csv")
    assert done.output.split() == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    assert not (folder / "report.html").exists()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()

# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from steepest.bench import Record
from steepest.bench import optim as theme
from steepest.optim.spec import optimizers


def test_every_optimizer_is_timed_beside_torchs_own(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(theme, "SETS", {"squares": [(64, 64)] * 4})
    record = Record("optimizers", threads=1)
    assert list(theme.measure(record, theme.chosen([]), ["squares"], seconds=0.001)) == ["squares"]
    rows = {row["name"]: row for row in record.rows}
    assert set(rows) == {*theme.PEERS, *optimizers()}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows["adamw"]["state_bytes_per_element"] == rows["torch AdamW fused"]["state_bytes_per_element"] == 8
    assert rows["sinkgd"]["state_bytes_per_element"] == 0
    assert rows["mfac"]["state_bytes_per_element"] == pytest.approx(4 * theme.SETTINGS["mfac"]["window"], rel=0.05)
    assert theme.table(record).row_count == len(rows)


def test_every_optimizer_can_step_the_squares_of_the_default_run():
    shapes = theme.SETS["16 squares of 256"]
    assert all(theme._made(name, shapes) for name in theme.chosen([]))


def test_names_are_checked():
    assert theme.chosen(["Muon"]) == ["torch AdamW fused", "muon"]
    with pytest.raises(ValueError, match="no optimizer is named 'muom'; expected some of"):
        theme.chosen(["muom"])

"""Steps that fail or are left out leave everything as it was; wrong use is refused."""

import errno
import os

import pytest
import torch
from torch import nn

from steepest.optim import MFAC, AdamW, Options
from steepest.train.offload import DamagedTileError, Offload, OffloadOptions, TileStore
from tests.train.offload.test_offload import assert_equal, loss_of, net, one_step

SMALL = OffloadOptions(tile_entries=1024)
OVERLAP = OffloadOptions(tile_entries=1024, overlap=True)
ON_DISK = OffloadOptions(tile_entries=1024, gradients="disk")


def pair(**options):
    one, two = net(), net()
    return one, AdamW(one, options=Options(**options)), two, AdamW(two, options=Options(**options))


@pytest.mark.parametrize("way", [SMALL, OVERLAP, ON_DISK], ids=["after", "overlapped", "on disk"])
def test_a_step_that_is_not_finite_is_left_out_whole(tmp_path, way):
    one, reference, two, optimizer = pair(nonfinite="skip")
    with Offload(optimizer, tmp_path, way) as offload:
        for step in range(5):
            for model, mine in ((one, reference), (two, optimizer)):
                loss = loss_of(model, step, 0)
                if step in (0, 3):  # only the gradient of a parameter that comes late in the backward pass is bad
                    handle = model.layers[0].weight.register_hook(lambda grad: grad * float("nan"))
                    loss.backward()
                    handle.remove()
                else:
                    loss.backward()
                mine.step()
                mine.zero_grad()
        assert reference.skipped == optimizer.skipped == 2
        assert offload.steps == 3
        assert_equal(one, two, reference, optimizer)


@pytest.mark.parametrize("way", [SMALL, OVERLAP], ids=["after", "overlapped"])
def test_a_bad_gradient_raises_by_name_and_leaves_the_weights(tmp_path, way):
    _, _, model, optimizer = pair(nonfinite="raise")
    with Offload(optimizer, tmp_path, way) as offload:
        one_step(model, optimizer, 0)
        before = [p.clone() for p in model.parameters()]
        model.layers[1].weight.register_hook(lambda grad: grad * float("inf"))
        loss_of(model, 1, 0).backward()
        with pytest.raises(ValueError, match=r"layers.1.weight is not finite"):
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert offload.steps == 1


@pytest.mark.parametrize("way", [SMALL, OVERLAP, ON_DISK], ids=["after", "overlapped", "on disk"])
@pytest.mark.parametrize("write", [0, 3, 11])
def test_a_disk_that_fills_up_in_a_step_costs_the_step_and_nothing_else(tmp_path, monkeypatch, way, write):
    one, reference, two, optimizer = pair()
    real, calls = os.pwrite, []

    def full(descriptor, view, at):
        calls.append(at)
        if len(calls) > write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, view[: len(view) // 2 // 4096 * 4096] if len(view) > 8191 else view, at)

    with Offload(optimizer, tmp_path, way) as offload:
        for step in range(4):
            one_step(one, reference, step)
            if step == 2:
                before = [p.clone() for p in two.parameters()]
                monkeypatch.setattr(os, "pwrite", full)
                with pytest.raises(OSError, match="No space"):
                    one_step(two, optimizer, step)
                monkeypatch.undo()
                assert all(torch.equal(p, q) for p, q in zip(two.parameters(), before, strict=True))
                assert all(p.grad is None for p in two.parameters())
            one_step(two, optimizer, step)
        assert offload.steps == 4
        assert_equal(one, two, reference, optimizer)


def test_a_damaged_tile_is_named_by_its_parameter(tmp_path):
    _, _, model, optimizer = pair()
    with Offload(optimizer, tmp_path, SMALL) as offload:
        one_step(model, optimizer, 0)
        before = [p.clone() for p in model.parameters()]
        tile = next(t for t in offload.store.tiles if t.name.startswith("states of back.weight"))
        with (tmp_path / "tiles.bin").open("r+b") as file:
            for version in range(2):
                file.seek(tile.offset + version * tile.nbytes + 1000)
                file.write(b"\xff\x00\xff")
        with pytest.raises(DamagedTileError, match=r"states of back.weight\[\d+:\d+\]"):
            one_step(model, optimizer, 1)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_steps_go_on_from_the_folder_alone(tmp_path):
    one, reference, two, optimizer = pair()
    with Offload(optimizer, tmp_path, OVERLAP) as offload:
        for step in range(3):
            offload.note = {"position": step}
            one_step(one, reference, step)
            one_step(two, optimizer, step)
    three = net()
    later = AdamW(three, lr=0.5)
    with Offload(later, tmp_path, OVERLAP, resume=True) as offload:
        assert (offload.steps, offload.note) == (3, {"position": 2})
        for step in range(3, 6):
            one_step(one, reference, step)
            one_step(three, later, step)
        assert_equal(one, three, reference, later)


def test_states_come_along_and_go_through_a_state_dict(tmp_path):
    one, reference, two, optimizer = pair()
    for step in range(2):
        one_step(one, reference, step)
        one_step(two, optimizer, step)
    with Offload(optimizer, tmp_path / "a", SMALL):
        one_step(one, reference, 2)
        one_step(two, optimizer, 2)
        saved = optimizer.state_dict()
    three = net()
    three.load_state_dict(two.state_dict())
    other = AdamW(three)
    with Offload(other, tmp_path / "b", SMALL):
        other.load_state_dict(saved)
        assert not other.state
        one_step(one, reference, 3)
        one_step(three, other, 3)
        assert_equal(one, three, reference, other)
    four = net()
    four.load_state_dict(two.state_dict())
    in_memory = AdamW(four)
    in_memory.load_state_dict(saved)
    one_step(four, in_memory, 3)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), four.parameters(), strict=True))


def test_schedulers_closures_and_hooks_work_as_ever(tmp_path):
    one, reference, two, optimizer = pair()
    counts = []
    with Offload(optimizer, tmp_path, SMALL):
        optimizer.register_step_post_hook(lambda *_: counts.append(1))
        for model, mine in ((one, reference), (two, optimizer)):
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(mine, 5)
            for step in range(4):

                def closure(model=model, mine=mine, step=step):
                    mine.zero_grad()
                    loss = loss_of(model, step, 0)
                    loss.backward()
                    return loss

                assert mine.step(closure) > 0
                scheduler.step()
        assert len(counts) == 4
        assert_equal(one, two, reference, optimizer)


def test_no_gradients_at_all_is_a_step_that_changes_nothing(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = AdamW(model)
    before = model.weight.clone()
    with Offload(optimizer, tmp_path) as offload:
        optimizer.step()
        assert offload.steps == 1
        assert torch.equal(model.weight, before)
        assert optimizer.state_dict()["state"] == {}


def test_wrong_use_is_refused(tmp_path):
    model = net()
    with pytest.raises(TypeError, match=r"optimizer of steepest\.optim, got AdamW"):
        Offload(torch.optim.AdamW(model.parameters()), tmp_path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one vector"):
        Offload(MFAC(model), tmp_path)
    with pytest.raises(ValueError, match="keep float32"):
        Offload(AdamW(model, options=Options(state_dtype="8bit")), tmp_path)
    with pytest.raises(ValueError, match="max_norm needs overlap=False"):
        OffloadOptions(overlap=True, max_norm=1.0)
    with pytest.raises(ValueError, match="never reach the disk"):
        OffloadOptions(overlap=True, gradients="disk")
    with pytest.raises(ValueError, match="no finished step"):
        Offload(AdamW(model), tmp_path / "empty", resume=True)
    with Offload(AdamW(model), tmp_path, OVERLAP) as offload:
        with pytest.raises(ValueError, match="on a disk already"):
            Offload(offload.optimizer, tmp_path / "b")
        with pytest.raises(TypeError, match="state_dict"):
            offload.optimizer.__getstate__()
    with pytest.raises(RuntimeError, match="store is closed"):
        offload.optimizer.step()
    with pytest.raises(ValueError, match="after its step 0: continue it with resume=True"):
        Offload(AdamW(net()), tmp_path, OVERLAP)
    with pytest.raises(ValueError, match="holds the states of"):
        Offload(AdamW(nn.Linear(64, 64)), tmp_path, OVERLAP, resume=True)
    with pytest.raises(ValueError, match="in its place"):
        Offload(AdamW(net()), tmp_path, OffloadOptions(tile_entries=2048), resume=True)
    with Offload(AdamW(net()), tmp_path, OffloadOptions(tile_entries=2048), overwrite=True) as offload:
        assert offload.steps == 0


def test_what_would_change_the_steps_is_refused_in_time(tmp_path):
    _, _, model, optimizer = pair()
    with Offload(optimizer, tmp_path, OVERLAP) as offload:
        loss_of(model, 0, 0).backward()
        # Autograd may be first, if a weight has moved before its second gradient is computed.
        with pytest.raises(RuntimeError, match=r"accumulating|modified by an inplace operation"):
            loss_of(model, 0, 1).backward()
        offload.rollback()
        before = [p.clone() for p in model.parameters()]
        loss_of(model, 0, 0).backward()
        optimizer.param_groups[0]["lr"] = 1.0
        with pytest.raises(ValueError, match="between the backward pass and step"):
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        optimizer.param_groups[0]["clip"] = 1.0
        with pytest.raises(ValueError, match="were changed"):
            optimizer.step()
        optimizer.param_groups[0]["clip"] = float("inf")
        handle = optimizer.register_step_pre_hook(lambda *_: None)
        with pytest.raises(ValueError, match="pre-hook"):
            optimizer.step()
        handle.remove()


def test_a_failure_to_open_leaves_the_folder_free(tmp_path):
    store = TileStore(tmp_path)
    with pytest.raises(OSError, match="another process"):
        Offload(AdamW(net()), tmp_path)
    store.close()
    with Offload(AdamW(net()), tmp_path):
        pass

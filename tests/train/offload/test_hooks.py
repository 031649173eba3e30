"""What step post-hooks make of the weights belongs to the step: it is what the disk has."""

import pytest
import torch

from steepest.geometry import RowSphere
from steepest.nn import keep_on_manifolds
from steepest.optim import AdamW, Muon, Options
from steepest.train.offload import Offload, OffloadOptions
from tests.train.offload.test_offload import assert_equal, loss_of, net, one_step

WAYS = [
    pytest.param(OffloadOptions(tile_entries=1024), id="after"),
    pytest.param(OffloadOptions(tile_entries=1024, overlap=True), id="overlapped"),
    pytest.param(OffloadOptions(tile_entries=1024, gradients="disk"), id="on disk"),
]


def on_spheres(make=AdamW, **options):
    model = net()
    optimizer = make(model, lr=0.02, options=Options(**options))
    keep_on_manifolds(optimizer, [(p, RowSphere()) for p in model.parameters() if p.ndim == 2])
    return model, optimizer


@pytest.mark.parametrize("make", [AdamW, Muon])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_from_the_weights_after_the_hooks(tmp_path, way, make):
    one, reference = on_spheres(make)
    two, optimizer = on_spheres(make)
    with Offload(optimizer, tmp_path, way) as offload:
        for step in range(3):
            one_step(one, reference, step)
            one_step(two, optimizer, step)
            assert offload.steps == step + 1
        assert_equal(one, two, reference, optimizer)
    again, optimizer = on_spheres(make)
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    with Offload(optimizer, tmp_path, way, resume=True):
        for step in range(3, 5):
            one_step(one, reference, step)
            one_step(again, optimizer, step)
        assert_equal(one, again, reference, optimizer)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_left_out_leaves_the_weights_after_the_hooks(tmp_path, way):
    one, reference = on_spheres(nonfinite="skip")
    two, optimizer = on_spheres(nonfinite="skip")
    with Offload(optimizer, tmp_path, way) as offload:
        for step in range(4):
            for model, mine in ((one, reference), (two, optimizer)):
                loss = loss_of(model, step, 0)
                handle = model.layers[0].weight.register_hook(lambda grad, bad=step == 2: grad / 0 if bad else grad)
                loss.backward()
                handle.remove()
                mine.step()
                mine.zero_grad()
        assert offload.steps == 3
        assert_equal(one, two, reference, optimizer)


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_raises_costs_no_step(tmp_path, way):
    one, reference = on_spheres()
    two, optimizer = on_spheres()
    with Offload(optimizer, tmp_path, way) as offload:
        for step in range(3):
            for model, mine in ((one, reference), (two, optimizer)):
                loss_of(model, step, 0).backward()
                if step == 1:
                    handle = mine.register_step_post_hook(lambda *_: 1 / 0)
                    with pytest.raises(ZeroDivisionError):
                        mine.step()
                    handle.remove()
                else:
                    mine.step()
                mine.zero_grad()
        assert offload.steps == 3
        assert_equal(one, two, reference, optimizer)
        before = [p.clone() for p in two.parameters()]
    other, optimizer = on_spheres()
    with Offload(optimizer, tmp_path, way, resume=True):
        assert all(torch.equal(p, q) for p, q in zip(other.parameters(), before, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_ends_among_the_hooks_has_not_taken_the_step(tmp_path, way):
    two, optimizer = on_spheres()
    with Offload(optimizer, tmp_path, way):
        one_step(two, optimizer, 0)
        before = [p.clone() for p in two.parameters()]
        loss_of(two, 1, 0).backward()
        optimizer.register_step_post_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    other, optimizer = on_spheres()
    with Offload(optimizer, tmp_path, way, resume=True) as offload:
        assert offload.steps == 1
        assert all(torch.equal(p, q) for p, q in zip(other.parameters(), before, strict=True))


def test_a_hook_that_comes_later_is_refused_where_weights_are_on_the_disk(tmp_path):
    model = net()
    optimizer = AdamW(model)
    with Offload(optimizer, tmp_path, OffloadOptions(tile_entries=1024, master=True)):
        one_step(model, optimizer, 0)
        before = [p.clone() for p in model.parameters()]
        optimizer.register_step_post_hook(lambda *_: None)
        loss_of(model, 1, 0).backward()
        with pytest.raises(ValueError, match="post-hook"):
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

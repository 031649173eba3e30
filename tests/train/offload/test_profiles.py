"""What the planner counts and measures, against what is known."""

import math

import pytest
import torch

from steepest.nn import Llama, preset
from steepest.optim import AdamW, Muon
from steepest.optim.explain import explain
from steepest.train.config import RunConfig, apply_overrides
from steepest.train.offload import Offload, OffloadOptions, gradient_course
from steepest.train.offload.allocations import Allocations
from steepest.train.offload.disk_profile import copy_rate, profile_disk
from steepest.train.offload.model_profile import _Round, profile_model, two_blocks
from steepest.train.offload.pieces import cut
from steepest.train.offload.plan_model import Skeleton, block_of
from steepest.train.optimizers import build_optimizers


def config(*settings: str) -> RunConfig:
    return apply_overrides(RunConfig(), ["model.vocab_size=256", *settings])


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sinkgd", "sgd momentum=0", "soap"])
def test_a_skeleton_counts_what_a_model_has(optimizer, tmp_path):
    run = config(f"optim.name={optimizer}", "model.width=32", "model.heads=2", "model.layers=2")
    skeleton = Skeleton(run)
    model = run.model.build(torch.Generator().manual_seed(0))
    (real,) = build_optimizers(model, run.optim)
    assert skeleton.parameters == model.parameter_count()
    assert skeleton.weights == sum(p.nbytes for p in model.parameters())
    with Offload(real, tmp_path, OffloadOptions()) as offload:  # pyright: ignore[reportArgumentType]
        assert skeleton.states == offload.states.nbytes
        assert [piece.describe() for piece in skeleton.pieces] == [piece.describe() for piece in offload.pieces]
        assert skeleton.footprint("pipelined", 1, 0).disk == offload.store.nbytes


def test_states_are_those_of_the_optimizers_own_table():
    run = config("optim.name=adamw", "model.width=48", "model.layers=2")
    skeleton = Skeleton(run)
    table = sum(plan.state_bytes for plan in explain(skeleton.engine))
    assert table <= skeleton.states <= table + 4096 * len(skeleton.pieces) + 64 * 100


def test_a_model_of_billions_is_counted_without_its_memory():
    skeleton = Skeleton(config("model.width=2560", "model.layers=36", "model.heads=40", "optim.name=adamw"))
    assert skeleton.weights == 4 * skeleton.parameters > 10**10
    assert skeleton.states == pytest.approx(8 * skeleton.parameters, rel=1e-3)


def test_gradients_in_the_course_of_a_backward_pass():
    """Three stages of known sizes: kept, put away, and used as they come."""
    sizes = [[100, 20000], [30000, 50], [40000]]
    stages = [[torch.empty(n, device="meta") for n in stage] for stage in sizes]
    assert gradient_course.kept(stages, 1) == (4 * 20100, 4 * 50150, 4 * 90150)
    assert gradient_course.kept(stages, 2) == (4 * 90150,) * 3
    assert gradient_course.put_away(stages, 1) == (4 * 20100, 4 * 30150, 4 * 40150)


def test_used_gradients_never_pass_what_the_backward_pass_has_made_nor_go_below_the_last():
    model = Llama(preset("nano", layers=4))
    pieces = cut(AdamW(model, lr=1e-3), 1024)
    stages = gradient_course.stages_of(list(model.named_parameters()), block_of, 4)
    used, kept = gradient_course.used(stages, pieces, 1), gradient_course.kept(stages, 1)
    assert sum(map(len, stages)) == len(list(model.parameters()))
    assert all(u <= k for u, k in zip(used, kept, strict=True))
    assert used[-1] < kept[-1]
    assert all(u >= max(p.nbytes for p in stage) for u, stage in zip(used, stages, strict=True))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_block_holds_what_saved_tensors_hooks_see(bfloat16):
    """An independent count: the storages that autograd keeps for the second of two blocks."""
    model = two_blocks(preset("micro", context=64))
    found = profile_model(model, 2, None, bfloat16=bfloat16)
    assert found.exact
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    inside, saved = False, dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if inside and storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    block = model.model.get_submodule("layers.1")
    handles = [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _Round(model, 2, 64, bfloat16)._run(lambda _: None)
    for handle in handles:
        handle.remove()
    stream = 2 * 64 * 128 * 4  # what goes in and out of the block: one of each may be counted by either side
    assert abs(found.keep - sum(saved.values())) <= 2 * stream
    copies = 2 * sum(p.numel() for p in block.parameters()) if bfloat16 else 0  # autocast's, until it ends
    assert found.recompute <= 3 * stream + copies
    assert found.backward_most >= found.keep


def test_a_scaled_profile_has_the_bytes_of_the_whole_one(tmp_path):
    model = two_blocks(preset("micro", context=128))
    whole = profile_model(model, 8, tmp_path, bfloat16=False)
    scaled = profile_model(model, 8, tmp_path, bfloat16=False, budget=4.5 * model.flops_per_token(128) * 128)
    assert whole.exact
    assert not scaled.exact
    for name in ("keep", "recompute", "forward_most", "head_most", "backward_most"):
        assert getattr(scaled, name) == pytest.approx(getattr(whole, name), rel=0.05), name


def test_a_disk_has_rates_and_nothing_is_left_on_it(tmp_path):
    rates = profile_disk(tmp_path / "new", state=1 << 16, weights=1 << 15)
    assert all(0 < rate < math.inf for rate in vars(rates).values())
    assert list((tmp_path / "new").iterdir()) == []
    assert copy_rate() > 0


def test_muon_needs_temporary_memory_and_more_time_than_adamw():
    from steepest.train.offload.update_profile import UpdateProfile

    model = two_blocks(preset("tiny"))
    kinds = {}
    for name, engine in {"adamw": AdamW(model, lr=1e-3), "muon": Muon(model, lr=1e-3)}.items():
        pieces = cut(engine, 1 << 20)
        kinds[name] = UpdateProfile(engine, pieces).temporary(engine, pieces)
    assert kinds["adamw"] == 0
    largest = max(p.nbytes for p in model.parameters())
    assert largest <= kinds["muon"] <= 30 * largest


def test_allocations_are_counted_to_the_byte():
    with Allocations() as found:
        found.mark("start")
        kept = [torch.ones(1000), torch.ones(2000)]
        found.mark("both")
        del kept[0]
        found.mark("one")
        found.count(-8000)
        found.mark("none")
    assert [found.at(name) for name in ("start", "both", "one", "none")] == [0, 12000, 8000, 0]
    assert found.most("start", "none") == 12000


def test_large_outputs_of_kernels_are_counted():
    from steepest import functional as SF

    x = torch.zeros(2 << 20)
    with Allocations() as found:
        y = SF.exp(x)
        found.mark("there")
        del y
        found.mark("gone")
    assert found.at("there") == x.nbytes
    assert found.at("gone") == 0

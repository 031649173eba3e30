"""Checkpoints laid out as DeepSpeed lays them out, by a writer of our own."""

import sys
import types
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest.optim import AdamW, Muon, load_torch_state
from steepest.train.deepspeed import read_deepspeed
from steepest.train.offload import Offload


class ZeroStageEnum(int, Enum):
    optimizer_states = 1
    gradients = 2
    weights = 3


class LossScaler:
    def __init__(self) -> None:
        self.cur_scale, self.dynamic = 1.0, False


class fragment_address:  # noqa: N801 (DeepSpeed's name)
    def __init__(self, numel: int, start: int) -> None:
        self.numel, self.start = numel, start


class Stranger:
    """A class that no checkpoint has to name."""


class Asks:
    """An attribute of anything."""

    def __reduce__(self):
        return getattr, ("text", "join")


PLACES = {
    "deepspeed.runtime.zero.config": ZeroStageEnum,
    "deepspeed.runtime.fp16.loss_scaler": LossScaler,
    "deepspeed.utils.tensor_fragment": fragment_address,
}


@pytest.fixture(autouse=True)
def deepspeed_modules(monkeypatch):
    """Pickles name the classes as if DeepSpeed had made them."""
    for name, made in PLACES.items():
        for end in [i for i, letter in enumerate(name) if letter == "."]:
            monkeypatch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
        module = types.ModuleType(name)
        setattr(module, made.__name__, made)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(made, "__module__", name)


@pytest.fixture(autouse=True, params=["value", "attribute"])
def members(request, monkeypatch):
    """How members of an enumeration are written: Python 3.11.0 to 3.11.3 named them as attributes of their class."""
    by_value = request.param == "value"

    def reduce(self, protocol):
        return (type(self), (self.value,)) if by_value else (getattr, (type(self), self.name))

    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", reduce)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.BatchNorm1d(7), nn.Linear(7, 3))


def groups(model: nn.Module) -> list[dict]:
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def trained(steps: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = net()
    optimizer = torch.optim.AdamW(groups(model), lr=1e-2, betas=(0.8, 0.99))
    for step in range(steps):
        take(model, optimizer, step)
    return model, optimizer


def take(model: nn.Module, optimizer, step: int) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def write(folder: Path, model: nn.Module, optimizer, ranks: int, *, alignment: int = 1, elastic: bool = False) -> None:
    """Write the files of a step: vectors of groups, padded to twice the ranks, in equal parts."""
    folder.mkdir(parents=True)
    named = {p: name for name, p in model.named_parameters()}
    shapes, cuts, alignments = [], [], []
    for group in optimizer.param_groups:
        shapes.append(OrderedDict((named[p], p.shape) for p in group["params"]))
        between = [-p.numel() % alignment for p in group["params"]]
        alignments.append(between)
        vectors = {}
        for key in ("weight", "exp_avg", "exp_avg_sq"):
            tensors = [p.detach() if key == "weight" else optimizer.state[p][key] for p in group["params"]]
            padded = [torch.cat([t.flatten(), torch.zeros(n)]) for t, n in zip(tensors, between, strict=True)]
            flat = torch.cat(padded)
            vectors[key] = torch.cat([flat, torch.zeros(-flat.numel() % (2 * ranks))])
        vectors["padding"] = -flat.numel() % (2 * ranks)
        cuts.append(vectors)
    step = next(iter(optimizer.state.values()))["step"]
    for rank in range(ranks):
        state, weights, paddings = {}, [], []
        for index, vectors in enumerate(cuts):
            part = {key: v.chunk(ranks)[rank].clone() for key, v in vectors.items() if key != "padding"}
            paddings.append(vectors["padding"] if rank == ranks - 1 else 0)
            weights.append(part.pop("weight")[: len(part["exp_avg"]) - paddings[-1]])
            state[index] = {"step": step, **part}
        plain = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
        base = {"state": state, "param_groups": [g | {"params": [i]} for i, g in enumerate(plain)]}
        if elastic:
            base = [{k: v if k == "step" else v[: len(w)] for k, v in state[i].items()} for i, w in enumerate(weights)]
        content = {
            "loss_scaler": LossScaler(),
            "clip_grad": 0.0,
            "base_optimizer_state": base,
            "single_partition_of_fp32_groups": weights,
            "zero_stage": ZeroStageEnum.gradients,
            "group_paddings": paddings,
            "param_alignment_paddings": alignments,
            "partition_count": [ranks] * len(shapes),
            "ds_version": "0.19.8",
            "param_slice_mappings": [OrderedDict((name, fragment_address(3, 0)) for name in s) for s in shapes],
        }
        torch.save({"optimizer_state_dict": content}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    rounded = {name: t.bfloat16() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    head = {"module": rounded, "param_shapes": shapes, "buffer_names": ["2.running_mean"], "shared_params": {}}
    torch.save(head, folder / "mp_rank_00_model_states.pt")
    (folder.parent / "latest").write_text(folder.name)


@pytest.mark.parametrize(("ranks", "alignment", "elastic"), [(1, 1, False), (2, 1, False), (3, 4, False), (4, 1, True)])
def test_weights_and_states_are_those_that_were_saved(tmp_path, ranks, alignment, elastic):
    model, optimizer = trained(3)
    write(tmp_path / "step3", model, optimizer, ranks, alignment=alignment, elastic=elastic)
    found = read_deepspeed(tmp_path)
    assert found.weights.keys() == model.state_dict().keys()
    for number, (name, parameter) in enumerate((n, p) for group in groups(model) for n, p in group["params"]):
        assert torch.equal(found.weights[name], parameter)
        state = found.optimizer["state"][number]
        assert state["step"] == 3
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[key], optimizer.state[parameter][key])
    # What was not trained stays as it was saved.
    assert torch.equal(found.weights["2.running_var"], model.state_dict()["2.running_var"].bfloat16())


def test_training_goes_on_with_the_states_on_a_disk(tmp_path):
    reference, old = trained(3)
    write(tmp_path / "saved" / "step3", reference, old, ranks=2)
    found = read_deepspeed(tmp_path / "saved" / "step3")
    model = net()
    model.load_state_dict(found.weights)
    optimizer = AdamW(groups(model), lr=1.0)
    load_torch_state(optimizer, found.optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    with Offload(optimizer, tmp_path / "states"):
        for step in range(3, 6):
            take(reference, old, step)
            take(model, optimizer, step)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="keeps"):
        load_torch_state(Muon(net()), found.optimizer)


def test_what_is_not_whole_or_of_another_kind_is_refused(tmp_path):
    model, optimizer = trained(1)
    write(tmp_path / "a", model, optimizer, ranks=2)
    part = tmp_path / "a" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    content = torch.load(part, weights_only=False)
    part.unlink()
    with pytest.raises(ValueError, match=r"of 2 processes .* files of the processes \[0\]"):
        read_deepspeed(tmp_path / "a")
    content["optimizer_state_dict"]["single_partition_of_fp32_groups"][0] = torch.zeros(3)
    torch.save(content, part)
    with pytest.raises(ValueError, match="a part is missing"):
        read_deepspeed(tmp_path / "a")
    part.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="is damaged"):
        read_deepspeed(tmp_path / "a")
    torch.save({"optimizer_state_dict": content["optimizer_state_dict"], "client": Stranger()}, part)
    with pytest.raises(ValueError, match="may execute code"):
        read_deepspeed(tmp_path / "a")
    torch.save({"optimizer_state_dict": content["optimizer_state_dict"], "client": Asks()}, part)
    with pytest.raises(ValueError, match="may execute code"):
        read_deepspeed(tmp_path / "a")
    (tmp_path / "a" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="ZeRO 3"):
        read_deepspeed(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds no mp_rank_00_model_states\.pt"):
        read_deepspeed(tmp_path / "b")

"""Planning for machines that one does not have, against the numbers of the papers and the formulas done by hand."""

import itertools

import pytest

from steepest.train.offload import Machine, NothingFitsError, Workload, plan_machine, read_machine
from steepest.train.offload.machines import PARTS, _fits, _placed, efficiencies

#: A transformer as ZeRO-Infinity counts it: P = 12 layers width^2.
PAPER = Workload(parameters=12 * 128 * 25600**2, width=25600, layers=128, heads=128, sequences=1, length=1024)


def machine(**changes) -> Machine:
    values = {"peak_tflops": 70, "device_memory": "32GB", "host_memory": "1.5TB", "pcie_gbps": 12, "devices": 16}
    return Machine(**{**values, "nvme_read_gbps": 25, "nvme_write_gbps": 25, **changes})


def test_the_published_efficiencies_come_out_of_a_machine():
    """70 GB/s for weights at batch 1 gives 0.506; 1.5 TB/s for states at batch 2 gives 0.916."""
    work = Workload(parameters=1e12, width=8192, layers=1, heads=1, sequences=1, length=1024)
    one = machine(pcie_gbps=70, devices=1)
    assert efficiencies(one, work, dict.fromkeys(PARTS, "host"))[PARTS[0]] == pytest.approx(0.506, abs=5e-4)
    work = Workload(parameters=1e12, width=8192, layers=1, heads=1, sequences=2, length=1024)
    many = machine(pcie_gbps=15, devices=100)
    assert efficiencies(many, work, dict.fromkeys(PARTS, "host"))[PARTS[1]] == pytest.approx(0.916, abs=5e-4)


def test_the_published_formulas_of_memory():
    """ZeRO-Infinity, section 3: 240 layers width^2 bytes of states, 2 batch length width layers of checkpoints."""
    sizes = PAPER.sizes(32)
    assert sizes[PARTS[0]] + sizes[PARTS[1]] == 240 * 128 * 25600**2
    assert sizes[PARTS[2]] == 2 * 32 * 1024 * 25600 * 128


def test_working_memory_by_hand():
    work = Workload(parameters=1, width=100, layers=1, heads=10, sequences=2, length=50, checkpoint_every=3)
    assert work.working() == 4 * 100 * 400 + 2 * 50 * 3 * (16 * 100 + 2 * 10 * 50)


def test_the_times_of_a_step_by_hand():
    """One device, all on the disks, 1e9 parameters, 1000 tokens, numbers that divide."""
    there = Machine(
        peak_tflops=1, device_memory="1TB", host_memory="1TB", pcie_gbps=10, nvme_read_gbps=4, nvme_write_gbps=2
    )
    work = Workload(parameters=1e9, width=10, layers=100, heads=1, sequences=1, length=1000)
    plan = _placed(there, work, {PARTS[0]: "nvme", PARTS[1]: "nvme", PARTS[2]: "device"})
    forward, backward = 2.0, 6.0  # 2 P tokens / peak; the backward pass computes the forward pass again
    read, write, adam = (4 + 12) / 4, 14 / 2, 1.0
    down, up = 0.4, 0.2
    assert plan.serial == pytest.approx(forward + backward + read + write + adam + down + up)
    assert plan.overlapped == pytest.approx(forward + max(backward, read, write, adam) + (read + write + adam) / 100)


def test_the_chosen_placement_is_the_fastest_that_fits():
    there, work = (
        machine(devices=4),
        Workload(parameters=13e9, width=5120, layers=40, heads=40, sequences=4, length=2048),
    )
    tiers = itertools.product(("device", "host", "nvme"), repeat=3)
    plans = [_placed(there, work, dict(zip(PARTS, one, strict=True))) for one in tiers]
    best = min(plan.overlapped for plan in plans if _fits(there, plan))
    chosen = plan_machine(there, work)
    assert chosen.overlapped == best
    assert chosen.used["device"] <= 32e9
    assert chosen.used["host"] <= 1.5e12


def test_more_memory_is_never_slower():
    work = Workload(parameters=13e9, width=5120, layers=40, heads=40, sequences=4, length=2048)
    times = [plan_machine(machine(device_memory=f"{size}GB", devices=1), work).overlapped for size in (24, 48, 96, 400)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_without_a_disk_what_is_too_large_is_refused():
    small = machine(host_memory="64GB", nvme_read_gbps=0, nvme_write_gbps=0)
    with pytest.raises(NothingFitsError, match="nothing fits into this machine"):
        plan_machine(small, PAPER)
    with pytest.raises(NothingFitsError, match="a device needs"):
        plan_machine(machine(device_memory="1GB"), PAPER)


def test_a_file_and_a_text_are_the_same_machine(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('peak_tflops = 165\ndevice_memory = "24GB"\nhost_memory = "128GB"\npcie_gbps = 25.0\n')
    text = "peak_tflops=165 device_memory=24GB host_memory=128GB pcie_gbps=25"
    assert read_machine(str(path)) == read_machine(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("peak_tflops=165", "device_memory, host_memory, pcie_gbps missing"),
        ("peak=1", "no setting 'peak'"),
        ("peak_tflops=much device_memory=1GB host_memory=1GB pcie_gbps=1", "peak_tflops: expected a number"),
        ("peak_tflops=1 device_memory=24 host_memory=1GB pcie_gbps=1", "device_memory: expected a number and a unit"),
        ("peak_tflops=-1 device_memory=1GB host_memory=1GB pcie_gbps=1", "peak_tflops"),
        ("peak_tflops=1 device_memory=1GB host_memory=1GB pcie_gbps=1 nvme_read_gbps=1", "both or neither"),
        ("peak_tflops=1 device_memory=1GB host_memory=1GB pcie_gbps=1 devices=0", "devices"),
    ],
)
def test_other_descriptions_are_refused(text, expected):
    with pytest.raises(ValueError, match=expected):
        read_machine(text)

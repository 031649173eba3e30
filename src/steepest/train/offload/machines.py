# SPDX-License-Identifier: Apache-2.0
"""Planning for machines that one does not have: devices behind PCIe, host memory, NVMe; from their data sheets."""

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from steepest.optim.rule import check
from steepest.train.offload.cost import efficiency, intensities
from steepest.train.offload.plan import NothingFitsError
from steepest.train.report.units import decimal_size, parse_size

Tier = Literal["device", "host", "nvme"]
TIERS: tuple[Tier, ...] = ("device", "host", "nvme")
#: What has a tier of its own; the keys of `intensities`.
PARTS = ("weights and gradients", "optimizer states", "activation checkpoints")


@final
@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine with devices that compute.

    Args:
        peak_tflops: Of one device, in 10^12 operations a second that matrix products reach.
        device_memory: Of one device, in bytes or as text (`"24GB"`).
        host_memory: In bytes or as text.
        pcie_gbps: Between host and one device, each way, in 10^9 bytes a second.
        nvme_read_gbps: Of all disks together; 0 for none.
        nvme_write_gbps: Of all disks together.
        devices: How many there are.
        adam_gparams: Parameters that the host's processor steps, in 10^9 a second.

    Raises:
        ValueError: If a number is out of its range.
    """

    peak_tflops: float
    device_memory: int | str
    host_memory: int | str
    pcie_gbps: float
    nvme_read_gbps: float = 0.0
    nvme_write_gbps: float = 0.0
    devices: int = 1
    adam_gparams: float = 1.0

    def __post_init__(self) -> None:
        for name in ("device_memory", "host_memory"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, parse_size(value, name))
        for name in ("peak_tflops", "device_memory", "host_memory", "pcie_gbps", "adam_gparams"):
            check(name, getattr(self, name), 0, math.inf, closed="()")
        for name in ("nvme_read_gbps", "nvme_write_gbps"):
            check(name, getattr(self, name), 0, math.inf, closed="[)")
        check("devices", self.devices, 1, 1 << 20)
        if (self.nvme_read_gbps > 0) != (self.nvme_write_gbps > 0):
            raise ValueError("nvme_read_gbps and nvme_write_gbps: expected both or neither, got one; give the other")

    def bandwidth(self, tier: Tier) -> float:
        """Return bytes a second from a tier to all devices together; infinity for their own memory."""
        links = self.pcie_gbps * 1e9 * self.devices
        return {"device": math.inf, "host": links, "nvme": min(links, self.nvme_read_gbps * 1e9)}[tier]


@final
@dataclass(frozen=True, kw_only=True)
class Workload:
    """A step of a transformer in mixed precision with Adam, its blocks computed again from checkpoints.

    Args:
        parameters: How many.
        width: Of the hidden states.
        layers: Blocks.
        heads: Of attention.
        sequences: Of one device's step.
        length: Of a sequence, in tokens.
        flops_per_token: Of forward and backward pass; None for 6 a parameter.
        checkpoint_every: Blocks between checkpoints.
    """

    parameters: float
    width: int
    layers: int
    heads: int
    sequences: int
    length: int
    flops_per_token: float | None = None
    checkpoint_every: int = 1

    @property
    def tokens(self) -> int:
        """Of one device's step."""
        return self.sequences * self.length

    def sizes(self, devices: int) -> dict[str, float]:
        """Return the bytes of each part, all devices together: 4, 16 for a parameter, and the checkpoints.

        Args:
            devices: How many share the model, each with sequences of its own.

        References:
            Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857, section 3.
        """
        checkpoints = 2.0 * self.tokens * self.width * self.layers / self.checkpoint_every * devices
        return dict(zip(PARTS, (4.0 * self.parameters, 16.0 * self.parameters, checkpoints), strict=True))

    def working(self) -> float:
        """Return the bytes that a device needs besides, for the largest layer and the blocks between checkpoints."""
        model = 4.0 * self.width * 4 * self.width
        inner = 16 * self.width + 2 * self.heads * self.length
        return model + float(self.tokens) * self.checkpoint_every * inner


@final
@dataclass(frozen=True, kw_only=True)
class MachinePlan:
    """What lives where on a machine, and what a step takes.

    Args:
        tiers: Of each part.
        sizes: Bytes of each part, all devices together.
        efficiencies: Part of the peak that is left by moving each part without overlap.
        used: Bytes in the memory of one device, in the host's, and on the disks.
        serial: Seconds of a step, one thing after another.
        overlapped: Seconds of a step whose optimizer runs during the backward pass.
    """

    tiers: dict[str, Tier]
    sizes: dict[str, float]
    efficiencies: dict[str, float]
    used: dict[str, float]
    serial: float
    overlapped: float


def plan_machine(machine: Machine, work: Workload) -> MachinePlan:
    """Return the placement with the fastest step, optimizer overlapped with the backward pass, that fits.

    Args:
        machine: Where.
        work: What.

    Returns:
        The plan.

    Raises:
        NothingFitsError: If none fits; its minimum is the memory of a device without which nothing helps.

    Example:
        >>> card = Machine(peak_tflops=165, device_memory="24GB", host_memory="256GB", pcie_gbps=25,
        ...                nvme_read_gbps=12, nvme_write_gbps=6)
        >>> work = Workload(parameters=13e9, width=5120, layers=40, heads=40, sequences=16, length=1024)
        >>> plan_machine(card, work).tiers["optimizer states"]
        'host'

    References:
        Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857. Liao et al. (2024), Fuyou, arXiv 2403.06504.
    """
    plans = [_placed(machine, work, dict(zip(PARTS, tiers, strict=True))) for tiers in _placements(machine)]
    fitting = [plan for plan in plans if _fits(machine, plan)]
    if not fitting:
        needed = min(plan.used["device"] for plan in plans)
        lacking = (
            f"a device needs {decimal_size(needed)} and has {decimal_size(float(machine.device_memory))}"
            if needed > float(machine.device_memory)
            else f"device and host together are too small for {decimal_size(sum(work.sizes(machine.devices).values()))}"
        )
        raise NothingFitsError(
            f"nothing fits into this machine: {lacking}; take fewer sequences, more memory, more devices, or a disk",
            int(needed),
        )
    return min(fitting, key=lambda plan: (plan.overlapped, plan.serial))


def _placements(machine: Machine) -> Iterator[tuple[Tier, ...]]:
    there = TIERS if machine.nvme_read_gbps else TIERS[:2]
    return itertools.product(there, repeat=len(PARTS))


def _fits(machine: Machine, plan: MachinePlan) -> bool:
    return plan.used["device"] <= float(machine.device_memory) and plan.used["host"] <= float(machine.host_memory)


def _placed(machine: Machine, work: Workload, tiers: dict[str, Tier]) -> MachinePlan:
    sizes = work.sizes(machine.devices)
    used = {tier: sum(sizes[part] for part in PARTS if tiers[part] == tier) for tier in TIERS}
    used["device"] = used["device"] / machine.devices + work.working()
    serial, overlapped = _seconds(machine, work, tiers)
    return MachinePlan(
        tiers=tiers,
        sizes=sizes,
        efficiencies=efficiencies(machine, work, tiers),
        used={str(tier): size for tier, size in used.items()},
        serial=serial,
        overlapped=overlapped,
    )


def efficiencies(machine: Machine, work: Workload, tiers: dict[str, Tier]) -> dict[str, float]:
    """Return the part of a device's peak that is left by moving each part without overlap.

    The model's parts come over all links at once, each device's checkpoints over its own.

    Args:
        machine: Where.
        work: What.
        tiers: Of each part.
    """
    ait = intensities(work.tokens, work.width, checkpoint_every=work.checkpoint_every)
    found = {}
    for part in PARTS:
        shared = machine.devices if part == "activation checkpoints" else 1
        bandwidth = machine.bandwidth(tiers[part]) / shared
        found[part] = 1.0 if bandwidth == math.inf else efficiency(ait[part], bandwidth, machine.peak_tflops * 1e12)
    return found


def _seconds(machine: Machine, work: Workload, tiers: dict[str, Tier]) -> tuple[float, float]:
    """Seconds of a step: serial, and overlapped, by the pipeline of Fuyou."""
    parameters, links = work.parameters, machine.pcie_gbps * 1e9 * machine.devices
    flops = work.flops_per_token or 6.0 * parameters
    forward = flops / 3 * work.tokens / (machine.peak_tflops * 1e12)
    backward = 3 * forward  # computing again included
    where_weights, where_states, where_checkpoints = (tiers[part] for part in PARTS)
    checkpoints = work.sizes(machine.devices)[PARTS[2]]
    down = up = read = write = adam = 0.0
    if where_weights != "device":  # both passes fetch them, gradients go back
        down, up = 4.0 * parameters, 2.0 * parameters
    elif where_states != "device":
        down, up = 2.0 * parameters, 2.0 * parameters
    if where_weights == "nvme":
        read += 4.0 * parameters
    if where_checkpoints != "device":
        down, up = down + checkpoints, up + checkpoints
    if where_checkpoints == "nvme":
        read, write = read + checkpoints, write + checkpoints
    if where_states != "device":
        adam = parameters / (machine.adam_gparams * 1e9)
    if where_states == "nvme":
        read, write = read + 12.0 * parameters, write + 14.0 * parameters
    on_disk = [read / (machine.nvme_read_gbps * 1e9) if read else 0.0]
    on_disk += [write / (machine.nvme_write_gbps * 1e9) if write else 0.0]
    moved = [down / links, up / links]
    serial = forward + backward + sum(moved) + sum(on_disk) + adam
    fill = (adam + sum(on_disk)) / work.layers
    return serial, max(forward + max(backward, *on_disk, adam), *moved) + fill


def read_machine(text: str) -> Machine:
    """Return a machine that a TOML file, or a text such as `"peak_tflops=165 device_memory=24GB ..."`, describes.

    Args:
        text: Name of a file that ends in .toml, or settings.

    Raises:
        ValueError: If a setting is missing, unknown or of another form.
        OSError: If the file cannot be read.
    """
    if text.endswith(".toml"):
        try:
            values: dict[str, Any] = tomllib.loads(Path(text).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{text} is not a well-formed toml file: {error}") from None
    else:
        pairs = [word.partition("=") for word in text.split()]
        values = {name: value for name, _, value in pairs}
    fields = {field.name: field for field in dataclasses.fields(Machine)}
    unknown = [name for name in values if name not in fields]
    missing = [n for n, field in fields.items() if n not in values and field.default is dataclasses.MISSING]
    if unknown or missing:
        raise ValueError(
            "--machine: expected a .toml file or settings like peak_tflops=165 device_memory=24GB; "
            + (f"there is no setting {unknown[0]!r}" if unknown else f"{', '.join(missing)} missing")
            + f"; there are {', '.join(fields)}"
        )
    return Machine(**{name: _typed(name, value) for name, value in values.items()})


def _typed(name: str, value: Any) -> Any:
    if name in ("device_memory", "host_memory"):
        return value if isinstance(value, int) and not isinstance(value, bool) else str(value)
    kind = int if name == "devices" else float
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"--machine: {name}: expected a number, got {value!r}; write {name}=8") from None

"""Random small instances of planning."""

import random

from steepest.train.offload import Activations, DiskRates, Facts, Footprint, StepCost


def instance(seed: int, *, disk: bool = True) -> Facts:
    """Facts with made-up numbers: blocks, bytes and seconds of any proportion."""
    draw = random.Random(seed)
    blocks = draw.randint(1, 6)

    def size(most: int) -> int:
        return draw.randint(0, most)

    keep = size(1000)
    recompute, swap = size(keep), size(keep)

    def footprint() -> Footprint:
        return Footprint(
            states=draw.choice([0, size(2000)]),
            buffers=size(100),
            before=draw.choice([0, size(500)]),
            alive=tuple(size(500) for _ in range(blocks + 2)),
            update=size(200),
            disk=size(3000) if disk else 0,
        )

    forward, backward = draw.uniform(0.1, 2), draw.uniform(0.1, 4)
    return Facts(
        baseline=size(500),
        weights=size(1000),
        activations=Activations(
            blocks=blocks,
            start=size(50),
            keep=keep,
            recompute=recompute,
            swap=swap,
            swapped=keep - swap,
            forward=size(300),
            head=size(300),
            backward=keep + size(300),
            buffers=size(50),
        ),
        ways={way: footprint() for way in ("memory", "pipelined", "overlapped", "gradients on disk")},
        excluded={},
        aside=size(400),
        disk_free=draw.choice([10**6, 4000]) if disk else 0,
        cost=StepCost(
            forward=forward,
            backward=backward,
            update=draw.uniform(0, 1),
            read=draw.uniform(0, 3000),
            write=draw.uniform(0, 3000),
            gradients=draw.uniform(0, 1000),
            weights=draw.uniform(0, 1000),
            pieces=draw.randint(1, 20),
            rounds=draw.randint(1, 3),
            copied=draw.uniform(1e3, 1e4),
            spare=draw.random() < 0.5,
        ),
        piecewise_update=draw.uniform(0, 1),
        block_forward=forward / blocks * draw.uniform(0.5, 1),
        disk=DiskRates(read=draw.uniform(500, 5000), write=draw.uniform(500, 5000), both=draw.uniform(500, 5000)),
    )

"""A loop under Accelerate takes the steps of the same loop without it."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader

from steepest.optim import Muon, Options
from tests.integrations.small import assert_equal_weights, texts, tiny_llama


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True, gradient_accumulation_steps=2)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def made():
    model = tiny_llama()
    optimizer = Muon(model, lr=0.02, options=Options(state_dtype="8bit"))
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)


def plain_loop(steps: int):
    model, optimizer, schedule = made()
    for number, batch in enumerate(DataLoader(texts(2 * 2 * steps), batch_size=2), 1):  # pyright: ignore
        (model(**batch).loss / 2).backward()
        if number % 2 == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model


def accelerated_loop(accelerator, model, optimizer, schedule, batches, *, first: int, last: int) -> None:
    for number, batch in enumerate(batches):
        if first <= number < last:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


def test_the_same_steps_and_a_saved_state_goes_on_with_the_same_bits(accelerator, tmp_path):
    whole = plain_loop(4)
    batches = DataLoader(texts(16), batch_size=2)  # pyright: ignore
    first = accelerator.prepare(*made(), batches)
    accelerated_loop(accelerator, *first[:3], first[3], first=0, last=4)
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.free_memory()
    second = accelerator.prepare(*made(), batches)
    accelerator.load_state(str(tmp_path / "state"))
    accelerated_loop(accelerator, *second[:3], second[3], first=4, last=8)
    assert_equal_weights(whole, accelerator.unwrap_model(second[0]))

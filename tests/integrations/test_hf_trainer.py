"""Hugging Face's Trainer with our optimizers, by object and by name."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler

from steepest.optim import AdamW, Muon, ScheduleFree, trainer_optimizer
from tests.integrations.small import assert_equal_weights, texts, tiny_llama, weights


class Rates(TrainerCallback):
    """Learning rate of every group before each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_step_begin(self, args, state, control, **around):
        self.seen.append([group["lr"] for group in around["optimizer"].param_groups])


def trainer(folder, *, batch: int = 2, **settings) -> Trainer:
    """Eight steps of four texts each."""
    ours = {key: settings.pop(key) for key in ("optimizers", "optimizer_cls_and_kwargs", "model") if key in settings}
    model = ours.pop("model", None) or tiny_llama()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=8,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=4 // batch,
        save_steps=4,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    return Trainer(model, arguments, train_dataset=texts(), **ours)


@pytest.mark.parametrize("name", ["muon lr=0.02", "adamw lr=0.01 state_dtype=8bit", "soap lr=0.003"])
def test_by_name_learns_and_resumes_to_the_same_numbers(tmp_path, name):
    settings = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "max_grad_norm": 0.5}
    whole = trainer(tmp_path / "whole", optimizer_cls_and_kwargs=trainer_optimizer(name), **settings)
    whole.train()
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    again = trainer(tmp_path / "again", optimizer_cls_and_kwargs=trainer_optimizer(name), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert_equal_weights(whole.model, again.model)


def test_by_object_with_a_scheduler_of_transformers(tmp_path):
    """Every group follows the schedule, each from its own learning rate; by name is the same run."""
    model, rates = tiny_llama(), Rates()
    optimizer = Muon(model, lr=0.02)
    here = trainer(
        tmp_path / "one", model=model, optimizers=(optimizer, None), lr_scheduler_type="linear", warmup_steps=3
    )
    here.add_callback(rates)
    here.train()
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler("linear", plain, num_warmup_steps=3, num_training_steps=8)
    for seen in rates.seen:
        assert seen == pytest.approx(
            [plain.param_groups[0]["lr"] * group["initial_lr"] for group in optimizer.param_groups]
        )
        plain.step()
        schedule.step()
    other = trainer(
        tmp_path / "two",
        optimizer_cls_and_kwargs=trainer_optimizer("muon", lr=0.02),
        lr_scheduler_type="linear",
        warmup_steps=3,
    )
    other.train()
    assert_equal_weights(here.model, other.model)


def test_accumulation_is_the_step_of_the_whole_batch(tmp_path):
    one = trainer(tmp_path / "one", batch=4, optimizer_cls_and_kwargs=trainer_optimizer("sinkgd"), max_grad_norm=0.0)
    two = trainer(tmp_path / "two", batch=1, optimizer_cls_and_kwargs=trainer_optimizer("sinkgd"), max_grad_norm=0.0)
    one.train()
    two.train()
    assert_equal_weights(one.model, two.model, rtol=1e-3, atol=1e-4)


def test_tied_weights_are_stepped_once(tmp_path):
    model = tiny_llama(tied=True)
    start = weights(model)
    here = trainer(tmp_path, model=model, optimizer_cls_and_kwargs=trainer_optimizer("muon"))
    here.train()
    stepped = [p for group in here.optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in stepped}) == len(stepped) == len(start)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(start["model.embed_tokens.weight"], model.lm_head.weight)


def test_schedule_free_is_switched_by_the_trainer(tmp_path):
    """The trainer calls `train` and `eval` of an optimizer that has them; it evaluates at the average."""
    model = tiny_llama()
    optimizer = ScheduleFree(AdamW(model, lr=0.01, betas=(0.0, 0.99)))
    here = trainer(tmp_path, model=model, optimizers=(optimizer, None), lr_scheduler_type="constant")
    here.eval_dataset = texts(8)
    here.train()
    trained = weights(model)
    optimizer.eval()
    assert any(not torch.equal(trained[name], p) for name, p in model.named_parameters())
    optimizer.train()
    assert all(torch.equal(trained[name], p) for name, p in model.named_parameters())


def test_a_name_that_is_none_is_refused_before_training():
    with pytest.raises(ValueError, match="muon"):
        trainer_optimizer("muom")
    with pytest.raises(ValueError, match="momentum"):
        trainer_optimizer("muon momentun=0.9")

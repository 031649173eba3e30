"""Lightning's Trainer takes the steps of a plain loop, and its checkpoints go on to the same bits."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from steepest.optim import Muon
from tests.integrations.small import assert_equal_weights, texts, tiny_llama

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning.*", "ignore::DeprecationWarning", "ignore::FutureWarning:lightning.*"
)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_llama()

    def training_step(self, batch, number):
        return self.model(**batch).loss

    def configure_optimizers(self):
        optimizer = Muon(self.model, lr=0.02)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder, checkpoint=None) -> Module:
    """Two passes over eight texts, two steps a pass; a checkpoint after each."""
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        callbacks=[ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(texts(8), batch_size=2), ckpt_path=checkpoint)  # pyright: ignore
    return module


def test_the_steps_of_a_plain_loop_and_resuming_from_a_checkpoint(tmp_path):
    model = Module()
    optimizer = model.configure_optimizers()["optimizer"]
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=4)
    batches = list(DataLoader(texts(8), batch_size=2))  # pyright: ignore
    for number, batch in enumerate(batches * 2, 1):
        (model.model(**batch).loss / 2).backward()
        if number % 2 == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    whole = fit(tmp_path / "whole")
    assert_equal_weights(model, whole)
    assert_equal_weights(whole, fit(tmp_path / "again", tmp_path / "whole" / "epoch=0.ckpt"))

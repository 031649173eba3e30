# SPDX-License-Identifier: Apache-2.0
"""The metrics of a run as TensorBoard event files, if asked for."""

from pathlib import Path
from typing import Any, final

_AXES = ("kind", "step", "tokens", "seconds")


@final
class TensorBoardLog:
    """Writes each metric under `train/` or `eval/`, by step.

    Args:
        folder: Where the event files go.
        after_step: Events of later steps, from a part of the run that is computed again, are hidden.

    Raises:
        ModuleNotFoundError: If TensorBoard is not installed; the message says how to install it.
    """

    def __init__(self, folder: Path, after_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ModuleNotFoundError(
                "--tensorboard needs the package tensorboard: pip install 'steepest[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Write one line of `metrics.jsonl`."""
        for name, value in row.items():
            if name not in _AXES:
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

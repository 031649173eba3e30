# SPDX-License-Identifier: Apache-2.0
"""Our optimizers in Hugging Face's `Trainer`, by name."""

from typing import Any, final

from torch import nn

from steepest.optim.engine import Engine
from steepest.optim.spec import Spec


@final
class FromModel:
    """Makes an optimizer of a model: what `Trainer` calls a factory."""

    def __call__(self, model: nn.Module, *, text: str, **settings: Any) -> Engine:
        """Return the optimizer.

        Args:
            model: As `Trainer` trains it, wrappers included.
            text: See `Spec.parse`.
            **settings: Further arguments of the constructor.

        Raises:
            ValueError: If the text or a setting does not fit.
        """
        return Spec.parse(text).build(model, **settings)


def trainer_optimizer(text: str, **settings: Any) -> tuple[type[FromModel], dict[str, Any]]:
    """Return what `transformers.Trainer` takes as `optimizer_cls_and_kwargs`, for an optimizer by name.

    `Trainer(model, args, optimizer_cls_and_kwargs=trainer_optimizer("muon lr=0.02"), ...)`. The optimizer is made of
    the model, so that each parameter gets its rule from its role; the learning rate is that of the text, not
    `args.learning_rate`; `lr_scheduler_type`, warm-up, clipping, accumulation and checkpoints are the trainer's. An
    optimizer that you made goes in as `optimizers=(optimizer, None)`.

    Args:
        text: A name and settings, as for `steepest train --optim`: `"sinkgd lr=0.02 state_dtype=8bit"`.
        **settings: Further arguments of the constructor.

    Raises:
        ValueError: If the text names no optimizer or no setting; at once, not when training begins.

    Example:
        >>> kind, arguments = trainer_optimizer("muon lr=0.03")
        >>> from torch import nn
        >>> type(kind()(nn.Linear(4, 2), **arguments)).__name__
        'Muon'
    """
    Spec.parse(text)
    return FromModel, {"text": text, **settings}

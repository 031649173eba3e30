# SPDX-License-Identifier: Apache-2.0
"""Losses of patched Hugging Face heads, from the hidden states, without holding the logits while training."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from steepest.kernels.cross_entropy import cross_entropy
from steepest.kernels.linear_cross_entropy import linear_cross_entropy
from steepest.nn.hf_modules import Patched, has_hooks


@contextmanager
def _passing_through(head: nn.Module, config: Any, softcap: float | None) -> Iterator[None]:
    """Make a classifier hand on its input while entered, and have nothing capped after it."""
    head.__dict__["forward"] = lambda hidden: hidden
    if softcap is not None:
        config.final_logit_softcapping = None
    try:
        yield
    finally:
        del head.__dict__["forward"]
        if softcap is not None:
            config.final_logit_softcapping = softcap


def _is_linear(head: nn.Module) -> bool:
    return getattr(head, "steepest_original", type(head)) is nn.Linear


def _is_plain(head: nn.Module) -> bool:
    """Return whether calling the classifier is nothing but its product."""
    return not has_hooks(head) and "forward" not in head.__dict__


class LanguageModelHead(Patched):
    """A model that ends in a linear classifier over the vocabulary and a cross-entropy.

    The loss comes from our kernels. While the model trains, the classifier's product is part of the loss and the output
    has no logits (`logits` is None), unless `steepest_keep_logits` is set.
    """

    steepest_keep_logits: bool
    config: Any
    training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take and return what the original does, but for the logits of a training step."""
        if args:
            kwargs = {**inspect.signature(super().forward).bind_partial(*args).arguments, **kwargs}  # pyright: ignore[reportAttributeAccessIssue]
        labels, head = kwargs.get("labels"), self._head()
        if labels is None or not _is_linear(head) or not self._is_usual(kwargs):
            return super().forward(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        as_tuple = kwargs.pop("return_dict", None) is False or self.config.return_dict is False
        fused = self.training and torch.is_grad_enabled() and not self.steepest_keep_logits and _is_plain(head)
        kwargs = {**kwargs, "labels": None, "return_dict": True}
        if fused:
            with _passing_through(head, self.config, self._softcap()):
                output = super().forward(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]
            loss = self._loss(output.logits, labels, cast("nn.Linear", head), kwargs)
        else:
            output = super().forward(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]
            loss = self._loss(output.logits, labels, None, kwargs)
        rest = {name: value for name, value in output.items() if name not in {"loss", "logits"}}
        output = type(output)(loss=loss, logits=None if fused else output.logits, **rest)
        return output.to_tuple() if as_tuple else output

    def _softcap(self) -> float | None:
        return getattr(self.config, "final_logit_softcapping", None)

    def _head(self) -> nn.Module:
        return self.get_output_embeddings()  # pyright: ignore[reportAttributeAccessIssue]

    def _is_usual(self, kwargs: dict[str, Any]) -> bool:
        """Return whether the loss is the family's own."""
        return "_loss_function" not in self.__dict__ and getattr(self, "loss_type", None) in {"ForCausalLM", None}

    def _targets(self, labels: Tensor, kwargs: dict[str, Any]) -> Tensor:
        shifted = kwargs.get("shift_labels")
        if shifted is not None:
            return shifted
        return nn.functional.pad(labels, (0, 1), value=kwargs.get("ignore_index", -100))[..., 1:]

    def _loss(self, features: Tensor, labels: Tensor, head: nn.Linear | None, kwargs: dict[str, Any]) -> Tensor:
        """Return the loss from hidden states and their head, or from logits where head is None."""
        targets, items = self._targets(labels, kwargs).reshape(-1).to(features.device), kwargs.get("num_items_in_batch")
        features = features.reshape(-1, features.shape[-1])
        ignored, reduction = kwargs.get("ignore_index", -100), "mean" if items is None else "sum"
        if head is None:
            loss = cross_entropy(features, targets, ignore_index=ignored, reduction=reduction)
        else:
            loss = linear_cross_entropy(
                features, head.weight, targets, head.bias,
                ignore_index=ignored, reduction=reduction, softcap=self._softcap(),
            )  # fmt: skip
        if items is None:
            return loss
        return loss / (items.to(loss.device) if isinstance(items, Tensor) else items)


class MaskedModelHead(LanguageModelHead):
    """BERT's: targets stand at their own position, and the loss takes no options."""

    def _is_usual(self, kwargs: dict[str, Any]) -> bool:
        return True

    def _targets(self, labels: Tensor, kwargs: dict[str, Any]) -> Tensor:
        return labels

    def _loss(self, features: Tensor, labels: Tensor, head: nn.Linear | None, kwargs: dict[str, Any]) -> Tensor:
        return super()._loss(features, labels, head, {})

"""For MMPretrain: a linear classifier with dropout before it, as in EfficientNet's and DNA's recipes."""

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn


class DropoutClsHead(LinearClsHead):
    """MMPretrain's ``LinearClsHead`` with dropout before the linear layer (0.2 in the DNA authors' recipe).

    None of MMPretrain's own heads has it: ``StackedLinearClsHead`` drops between linear layers, not before a single
    one. The state dict has the keys of ``LinearClsHead``, ``fc.weight`` and ``fc.bias``.

    Args:
        dropout_ratio: Share of the features that are dropped in training.
        kwargs: Arguments of ``LinearClsHead``: ``num_classes``, ``in_channels``, ``loss``, ``topk``, …

    Raises:
        ValueError: `dropout_ratio` is not in [0, 1).
    """

    def __init__(self, dropout_ratio: float = 0.2, **kwargs: Any) -> None:
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f'dropout_ratio must be in [0, 1), got {dropout_ratio}')
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(dropout_ratio)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Returns the pooled features ``(N, in_channels)`` for the linear layer, with dropout in training."""
        dropped: Tensor = self.dropout(super().pre_logits(feats))
        return dropped

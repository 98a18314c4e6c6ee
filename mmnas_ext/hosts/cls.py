"""For MMPretrain: a linear classifier that drops features, as EfficientNet's and DNA's recipes do."""

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn


class DropoutClsHead(LinearClsHead):
    """MMPretrain's ``LinearClsHead`` with dropout before the linear layer (0.2 in the DNA authors' recipe).

    MMPretrain's own heads have none there: ``StackedLinearClsHead`` drops between linear layers, not before the only
    one. Keys are those of ``LinearClsHead``, ``fc.weight`` and ``fc.bias``.

    Args:
        dropout_ratio: Share of the features that are dropped in training.
        kwargs: As ``LinearClsHead``: ``num_classes``, ``in_channels``, ``loss``, ``topk``, …

    Raises:
        ValueError: `dropout_ratio` does not lie in [0, 1).
    """

    def __init__(self, dropout_ratio: float = 0.2, **kwargs: Any) -> None:
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f'dropout_ratio must lie in [0, 1), got {dropout_ratio}')
        super().__init__(**kwargs)
        self.dropout = nn.Dropout(dropout_ratio)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The pooled features ``(N, in_channels)`` that the linear layer takes, dropped in training."""
        dropped: Tensor = self.dropout(super().pre_logits(feats))
        return dropped

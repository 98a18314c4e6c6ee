"""A layer of a super-network: all its candidates side by side, one of which runs at a time."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmnas_ext.archs import SKIP
from mmnas_ext.ops.layer import build_layer


def candidate_key(token: str) -> str:
    """Name of a candidate's module: its token, with the dot that module names cannot hold replaced."""
    return token.replace('.', '_')


class ChoiceLayer(BaseModule):
    """Candidates of one layer; which of them runs is said at each call.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        tokens: Candidates, ``skip`` among them where stride and channels allow an identity.
        stride: Stride.
        dilation: Dilation of the depthwise convolutions.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        tokens: Sequence[str],
        stride: int = 1,
        dilation: int = 1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tuple(tokens)
        self.candidates = nn.ModuleDict(
            {
                candidate_key(token): build_layer(token, in_channels, channels, stride, dilation, norm_cfg, act_cfg)
                for token in tokens
                if token != SKIP
            }
        )

    def candidate(self, index: int) -> nn.Module | None:
        """A candidate's module; ``None`` for a skip."""
        token = self.tokens[index]
        return None if token == SKIP else self.candidates[candidate_key(token)]

    def run(self, index: int, x: Tensor) -> Tensor:
        """One candidate's output: ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), …)``."""
        module = self.candidate(index)
        return x if module is None else module(x)

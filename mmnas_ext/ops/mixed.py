"""A layer of the super-network: all its candidates side by side, and alpha, which says how good each is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmnas_ext.ops.choice import ChoiceLayer
from mmnas_ext.ops.mixture import mixture


class MixedLayer(ChoiceLayer):
    """Candidates of one layer (FNA, ICLR 2020, section 3.2): one of them, or all mixed by softmax(alpha / temperature).

    Candidate norms have no running statistics: a candidate is trained by few of the steps, and its statistics depend
    on the path before it. Nor have they affine parameters, unless they are asked for.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        tokens: Candidates, ``skip`` among them where stride and channels allow an identity.
        macs: Multiply-adds of each candidate at the input size of the search.
        stride: Stride.
        dilation: Dilation of the depthwise convolutions.
        norm_cfg: Norm; running statistics are switched off here.
        act_cfg: Activation.
        with_cp: When all candidates are mixed, keep little more than the layer's input and recompute the rest.
        affine: Whether the candidates' norms have weights and biases.
        temperature: The mixture is that by softmax(alpha / temperature): below 1 it is sharper than the probabilities.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        tokens: Sequence[str],
        macs: Sequence[int],
        stride: int = 1,
        dilation: int = 1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        with_cp: bool = False,
        affine: bool = False,
        temperature: float = 1.0,
    ) -> None:
        norm_cfg = {**(norm_cfg or dict(type='BN')), 'affine': affine, 'track_running_stats': False}
        super().__init__(in_channels, channels, tokens, stride, dilation, norm_cfg, act_cfg)
        self.with_cp = with_cp
        self.temperature = temperature
        self.choice: int | None = None
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(tokens)))
        # double: sums of many 1e9-sized entries stay exact to the unit
        self.register_buffer('macs', torch.tensor(macs, dtype=torch.float64), persistent=False)

    def probabilities(self) -> Tensor:
        """softmax(alpha), ``(candidates,)``: what paths are drawn by."""
        return self.alpha.softmax(0)

    def shares(self) -> Tensor:
        """softmax(alpha / temperature), ``(candidates,)``: what all candidates are mixed by."""
        return (self.alpha / self.temperature).softmax(0)

    def expected_macs(self) -> Tensor:
        """Expectation of the candidates' multiply-adds under the mixture's shares: a double scalar."""
        return self.expected(self.macs)

    def expected(self, prices: Tensor) -> Tensor:
        """Expectation of the candidates' prices ``(candidates,)`` under the mixture's shares: a double scalar."""
        return (self.alpha.double() / self.temperature).softmax(0) @ prices.double()

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        if self.choice is not None:
            return self.run(self.choice, x)
        shares = self.shares()
        modules = [self.candidate(index) for index in range(len(self.tokens))]
        mixed = mixture(modules, x, shares, self.with_cp)
        if mixed is not None:
            return mixed
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._mix, x, shares, use_reentrant=False)
        return self._mix(x, shares)

    def forward_with_expansion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the expansion ``(N, in_channels * e, H, W)`` that SSDLite reads, mixed as the output is.

        All candidates must have one expansion e, and none may be a skip: a super-network checks this when it is built.
        """
        if self.choice is not None:
            return self._run_with_expansion(self.choice, x)
        shares = self.shares()
        # what `mixture` computes has no expansions of the candidates to hand out
        if self.with_cp and torch.is_grad_enabled():
            both: tuple[Tensor, Tensor] = checkpoint(self._mix_with_expansion, x, shares, use_reentrant=False)
            return both
        return self._mix_with_expansion(x, shares)

    def _mix_with_expansion(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        out, hidden = (weights[0] * part for part in self._run_with_expansion(0, x))
        for index in range(1, len(self.tokens)):
            more_out, more_hidden = self._run_with_expansion(index, x)
            out, hidden = out + weights[index] * more_out, hidden + weights[index] * more_hidden
        return out, hidden

    def _run_with_expansion(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        module: Any = self.candidate(index)
        assert module is not None, 'the first layer of a stage cannot be skipped'
        both: tuple[Tensor, Tensor] = module.forward_with_expansion(x)
        return both

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        mixed = weights[0] * self.run(0, x)
        for index in range(1, len(self.tokens)):
            mixed = mixed + weights[index] * self.run(index, x)
        return mixed

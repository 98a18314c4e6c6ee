"""For MMSegmentation: the head of MobileNetV3's segmentor, of small images as well."""

from typing import Any

import torch.nn.functional as F
from mmseg.models.decode_heads import LRASPPHead as _LRASPPHead
from torch import Tensor, nn


class LRASPPHead(_LRASPPHead):
    """MMSegmentation's ``LRASPPHead`` (Howard et al., ICCV 2019, figure 10) whose pooling fits any feature.

    It pools in windows of 49x49 positions, which features of less than 392 pixels at stride 8 do not have. There the
    window is the whole feature; everywhere else outputs are the same, and so are the keys of the state dict.

    Args:
        kwargs: Arguments of MMSegmentation's head.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_pool[0] = _FittingPool(self.image_pool[0])


class _FittingPool(nn.Module):
    """Means over windows of an ``nn.AvgPool2d`` of ``(N, C, H, W)``, at most as large as the feature."""

    def __init__(self, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self.window = _pair(pool.kernel_size)
        self.stride = _pair(pool.stride)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (min(side, size) for side, size in zip(self.window, x.shape[-2:], strict=True))
        return F.avg_pool2d(x, (height, width), self.stride)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value

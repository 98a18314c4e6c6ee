"""Stands where MMCV has its compiled operators, ``mmcv/_ext``: what one-stage detectors need, in PyTorch itself.

``tools/collect_wheels.sh`` puts it into an MMCV that is built without a compiler, so that one wheel serves every
Python, PyTorch and GPU. It has non-maximum suppression (by torchvision, on the device of the boxes) and the focal loss,
which MMDetection takes from here on a GPU. Every other operator, such as RoI pooling or a deformable convolution, can
be imported and raises when it is called.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms as _nms


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that stay, the best scored first.

    Args:
        boxes: Corners in pixels, ``(N, 4)``.
        scores: ``(N,)``.
        iou_threshold: A box whose intersection over union with a better one is larger goes.
        offset: 1 counts pixels, so that a box from 0 to 9 is 10 wide; 0 measures lengths.
    """
    # sides, intersections and their sizes are those of boxes whose far corner lies further out
    shift = boxes.new_tensor([0.0, 0.0, offset, offset])
    return _nms(boxes.float() + shift.float(), scores.float(), iou_threshold)


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the focal loss (1708.02002, eq. 5) of each logit ``(N, classes)`` into `output`.

    Args:
        logits: ``(N, classes)``.
        target: Classes ``(N,)``; the number of classes is background.
        weight: Of the classes, ``(classes,)``, or empty.
        output: ``(N, classes)``.
        gamma: How much less well classified ones count.
        alpha: Share of the positive ones.
    """
    x, sign, share = _signed(logits, target, alpha)
    wrong = torch.sigmoid(-sign * x)
    output.copy_(_weighted(-share * wrong**gamma * F.logsigmoid(sign * x), weight))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivative of `sigmoid_focal_loss_forward` by each logit into `grad_input`, ``(N, classes)``."""
    x, sign, share = _signed(logits, target, alpha)
    wrong = torch.sigmoid(-sign * x)
    inner = gamma * (1 - wrong) * F.logsigmoid(sign * x) - wrong
    grad_input.copy_(_weighted(sign * share * wrong**gamma * inner, weight))


def _signed(logits: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """The logits in single precision at least, and of each whether it should be large: 1 or -1, and its share."""
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    x = logits.double() if logits.dtype is torch.float64 else logits.float()
    sign, share = x.new_tensor([-1.0, 1.0]), x.new_tensor([1 - alpha, alpha])
    return x, sign[positive.long()], share[positive.long()]


def _weighted(losses: Tensor, weight: Tensor) -> Tensor:
    return losses * weight if weight.numel() else losses


def __getattr__(name: str) -> Callable[..., Any]:
    """Any other operator: MMCV looks for all of them when it is imported."""
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f'this MMCV is built without compiled operators, and {name} is one: install an MMCV with operators'
        )

    return missing

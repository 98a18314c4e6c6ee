"""For MMSegmentation: FNA's DeepLab heads, and a cross entropy that excludes ignored pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import ASPPHead
from mmseg.models.decode_heads.sep_aspp_head import DepthwiseSeparableASPPModule
from mmseg.models.utils import resize
from torch import Tensor, nn

OUTPUT_STRIDES = (8, 16, 32)
# rates of the dilated branches, in pixels of the image: 6, 12 and 18 at output stride 16, twice that at 8 (DeepLabv3,
# arXiv 1706.05587, section 3.3); the first branch is a 1x1 convolution
_REACH = (96, 192, 288)
# what windows that overlap are averaged by
AVERAGES = ('logits', 'softmax')


class FNASegHead(ASPPHead):
    """The DeepLabv3 and DeepLabv3+ heads of FNA (ICLR 2020, section 4.2).

    MMSegmentation's heads merge the pyramid with a 3x3 convolution, which has 2.95 M parameters at 256 channels; FNA's
    use a 1x1 convolution, as DeepLabv3 (arXiv 1706.05587) does. With `separable` the dilated branches are depthwise
    separable: this head has the published numbers of DeepLabv3. Without it, and with a decoder of two ordinary 3x3
    convolutions (arXiv 1802.02611, section 3.1), the head has the published numbers of DeepLabv3+.

    Args:
        separable: Whether the dilated branches are depthwise separable, with an activation after both convolutions.
        c1_in_channels: Channels of the low-level feature for the v3+ decoder; 0 for no decoder (v3).
        c1_in_index: Index of that feature among the backbone's outputs.
        c1_channels: Channels that the low-level feature is reduced to.
        output_stride: Stride of the feature that the branches read: 8, 16 or 32. `tools/train.py` takes it from the
            backbone where a config does not say it.
        dilations: Dilation of each branch; 1 is a 1x1 convolution. Without it they follow from `output_stride`:
            1, 6, 12, 18 at 16 and 1, 12, 24, 36 at 8, so that a branch reaches equally far in the image.
        kwargs: Arguments of MMSegmentation's ``BaseDecodeHead``: ``in_channels``, ``channels``, ``num_classes``, …

    Raises:
        ValueError: A number of channels or `output_stride` is out of range, or `dilations` is not a list of positive
            integers.
    """

    def __init__(
        self,
        separable: bool = True,
        c1_in_channels: int = 0,
        c1_in_index: int = 0,
        c1_channels: int = 48,
        output_stride: int = 16,
        dilations: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(output_stride, bool) or output_stride not in OUTPUT_STRIDES:
            raise ValueError(f'output_stride must be one of {OUTPUT_STRIDES}, got {output_stride!r}')
        # given rates go with whatever feature there is; those that follow from a stride only with a feature of it
        self.expected_stride = output_stride if dilations is None else None
        if dilations is None:
            dilations = (1, *(reach // output_stride for reach in _REACH))
        listed = dilations if isinstance(dilations, Sequence) else ()
        if not listed or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in listed):
            raise ValueError(f'dilations must be a non-empty list of positive integers, got {dilations!r}')
        if c1_in_channels < 0 or c1_channels < 1:
            raise ValueError(
                f'c1_in_channels must be at least 0 and c1_channels at least 1, got {c1_in_channels} and {c1_channels}'
            )
        super().__init__(dilations=tuple(dilations), **kwargs)
        layers: dict[str, Any] = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        if separable:
            self.aspp_modules = DepthwiseSeparableASPPModule(
                dilations=self.dilations, in_channels=self.in_channels, channels=self.channels, **layers
            )
        self.bottleneck = ConvModule((len(self.dilations) + 1) * self.channels, self.channels, 1, **layers)
        self.c1_in_index = c1_in_index
        self.c1_bottleneck = None
        if c1_in_channels:
            self.c1_bottleneck = ConvModule(c1_in_channels, c1_channels, 1, **layers)
            self.decoder = nn.Sequential(
                ConvModule(self.channels + c1_channels, self.channels, 3, padding=1, **layers),
                ConvModule(self.channels, self.channels, 3, padding=1, **layers),
            )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps a backbone's outputs to logits ``(N, num_classes, h, w)``, of the low-level feature's size in v3+."""
        features = self._forward_feature(inputs)
        if self.c1_bottleneck is not None:
            detail = self.c1_bottleneck(inputs[self.c1_in_index])
            features = resize(features, detail.shape[2:], mode='bilinear', align_corners=self.align_corners)
            features = self.decoder(torch.cat([features, detail], dim=1))
        logits: Tensor = self.cls_seg(features)
        return logits

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: Sequence[Any], train_cfg: Any) -> dict[str, Tensor]:
        """Computes the losses of a batch, as MMSegmentation's heads do.

        Raises:
            ValueError: The feature has another stride than the one that the dilations were made for.
        """
        self._check_stride(inputs, tuple(batch_data_samples[0].gt_sem_seg.data.shape[-2:]))
        losses: dict[str, Tensor] = super().loss(inputs, batch_data_samples, train_cfg)
        return losses

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: list[dict[str, Any]], test_cfg: Any) -> Tensor:
        """Maps a backbone's outputs to logits ``(N, num_classes, H, W)`` of the image's or window's size.

        ``test_cfg=dict(mode='slide', average='softmax', …)`` gives the classes' probabilities instead. MMSegmentation
        averages what its sliding windows return, so these are averaged where windows overlap, which decides as their
        sum does.

        Raises:
            ValueError: The feature has another stride than the one that the dilations were made for, or
                ``test_cfg.average`` is neither ``'logits'`` nor ``'softmax'``, or is ``'softmax'`` of a single channel.
        """
        average = (test_cfg or {}).get('average', AVERAGES[0])
        if average not in AVERAGES:
            raise ValueError(f'test_cfg.average must be one of {AVERAGES}, got {average!r}')
        if average == 'softmax' and self.out_channels == 1:
            raise ValueError("test_cfg.average='softmax' needs a channel per class, got decode_head.out_channels=1")
        self._check_stride(inputs, _image_size(batch_img_metas[0]))
        logits: Tensor = super().predict(inputs, batch_img_metas, test_cfg)
        return logits.softmax(dim=1) if average == 'softmax' else logits

    def _check_stride(self, inputs: Sequence[Tensor], image_size: tuple[int, int]) -> None:
        """Raises ValueError if the pyramid's feature of an image ``(H, W)`` is not of the stride that it expects."""
        stride = self.expected_stride
        feature = inputs[self.in_index] if isinstance(self.in_index, int) else inputs[self.in_index[0]]
        size = tuple(feature.shape[-2:])
        if stride is None or size == tuple(-(-side // stride) for side in image_size):
            return
        # 2 to the power that is nearest; a backbone that rounds down differs by one pixel from those that round up
        found = 2 ** round(math.log2(max(image_size) / max(size)))
        if found != stride:
            raise ValueError(
                f'decode_head.output_stride is {stride}, hence its dilations {self.dilations}, but an image of '
                f'{image_size[0]}x{image_size[1]} gives a feature of {size[0]}x{size[1]}: set it to {found}, as in the '
                'backbone, or set dilations'
            )


class SegCrossEntropyLoss(nn.Module):
    """Cross entropy over the labelled pixels: PyTorch's weighted mean, and 0 where no pixel is labelled.

    MMSegmentation's ``CrossEntropyLoss`` divides by the number of all pixels, ignored ones included, unless
    ``avg_non_ignore`` is set: a crop with half of its pixels unlabelled counts half. It also uses the ignored label
    as an index into the class weights, which fails in one release line with ``avg_non_ignore`` and in the other
    without it.

    Args:
        class_weight: One weight per class, or ``None``.
        loss_weight: Factor of the loss.
        loss_name: Name in the logs; MMEngine only adds losses whose names begin with ``loss_``.

    Raises:
        ValueError: `class_weight` is not a list of finite numbers of at least 0.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        weights = None if class_weight is None else _class_weights(class_weight)
        self.register_buffer('class_weight', weights, persistent=False)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Computes the loss, a scalar.

        Args:
            logits: ``(N, classes, H, W)``.
            labels: ``(N, H, W)``, integers.
            weight: Factor per pixel, ``(N, H, W)``, from a pixel sampler, or ``None``.
            ignore_index: Label of the pixels that count neither in the sum nor in the divisor.
            reduction_override: ``'none'`` returns the loss of each pixel, ``(N, H, W)``, by which
                MMSegmentation's ``OHEMPixelSampler`` selects the hard pixels.

        Raises:
            ValueError: The number of class weights is not the number of classes, or `reduction_override` has
                another value.
        """
        if reduction_override not in (None, 'none'):
            raise ValueError(f"reduction_override must be None or 'none', got {reduction_override!r}")
        # a sum over a crop's pixels overflows in half precision
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = self.class_weight
        if weights is not None and len(weights) != logits.shape[1]:
            raise ValueError(f'class_weight must have one entry per class, {logits.shape[1]}, got {len(weights)}')
        weights = None if weights is None else weights.to(logits.dtype)
        losses = F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, reduction='none')
        if reduction_override == 'none':
            return self.loss_weight * losses
        counted = labels != ignore_index
        shares = counted.to(losses.dtype) if weights is None else weights[labels * counted] * counted
        if weight is not None:
            losses, shares = losses * weight, shares * weight
        total = shares.sum()
        mean: Tensor = losses.sum() / torch.where(total > 0, total, torch.ones_like(total))
        return self.loss_weight * mean


def _image_size(meta: Mapping[str, Any]) -> tuple[int, int]:
    """Size of the image or window that a prediction is for, found as ``BaseDecodeHead.predict_by_feat`` finds it."""
    window = isinstance(meta['img_shape'], torch.Size)
    height, width = (meta['img_shape'] if window or 'pad_shape' not in meta else meta['pad_shape'])[:2]
    return int(height), int(width)


def _class_weights(given: Sequence[float]) -> Tensor:
    """Checks class weights and returns them as a tensor."""
    numbers = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
        raise ValueError(f'class_weight must be a list of finite numbers of at least 0, got {str(given)[:100]}')
    return torch.tensor(numbers, dtype=torch.float32)

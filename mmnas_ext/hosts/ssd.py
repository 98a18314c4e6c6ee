"""For MMDetection: the head and anchors of FNA's SSDLite, and an SSD head that predicts."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import SSDHead as MMDetSSDHead
from mmdet.models.task_modules import SSDAnchorGenerator
from torch import Tensor, nn

_BACKBONES = 2  # features that an SSD takes from its backbone; those that follow are halved by its neck


class SSDHead(MMDetSSDHead):
    """MMDetection's ``SSDHead`` with a prediction that runs.

    MMDetection's since 3.2 reads ``self.loss_cls`` where it turns scores into probabilities, to see whether a loss has
    an activation of its own. SSD computes its losses by functions and never sets it: training goes well, and the first
    validation ends with an AttributeError. Here it is ``None``, which has no activation, so that scores are softmax's.
    """

    loss_cls: None = None

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: Sequence[Any]) -> dict[str, Any]:
        """Computes the losses of a batch, as MMDetection's does.

        Args:
            x: Features, each ``(N, C, H, W)``.
            batch_data_samples: An image's boxes and sizes each.

        Raises:
            ValueError: The features are not those that the anchors have strides for.
        """
        height, width = batch_data_samples[0].batch_input_shape
        strides = self.prior_generator.strides
        wanted = [(-(-height // down), -(-width // across)) for across, down in strides[:_BACKBONES]]
        found = [tuple(feature.shape[-2:]) for feature in x[:_BACKBONES]]
        # a backbone that rounds down differs by one position from those that round up
        if len(x) != len(strides) or any(
            abs(a - b) > 1 for pair in zip(found, wanted, strict=True) for a, b in zip(*pair, strict=True)
        ):
            raise ValueError(
                f'bbox_head has anchors for {len(strides)} features of strides {[s[1] for s in strides]}, and reads '
                f'{len(x)}, the first of {found} positions, of images of {height}x{width}: set the strides, or '
                "the backbone's out_indices and output_stride"
            )
        losses: dict[str, Any] = super().loss(x, batch_data_samples)
        return losses


class SSDLiteHead(SSDHead):
    """The SSDLite head of FNA (ICLR 2020, section 4.3).

    Per feature and task a depthwise 3x3 convolution with norm and activation, then a 1x1 convolution with a norm and
    without bias. ``SSDHead(use_depthwise=True)`` ends in a 1x1 convolution with bias and no norm, and has other
    parameters: 1,439,606 instead of 1,442,156 of 81 classes on six features.

    The coarsest feature of an image of 320 pixels is a single position: a batch of one image has no batch statistics
    there, which PyTorch says. Let a loader drop its last batch.

    Args:
        num_classes: Classes, the background not counted.
        in_channels: Channels of each feature.
        norm_cfg: Norm of all convolutions; ``None`` is a batch norm with the authors' epsilon, 1e-3.
        act_cfg: Activation after the depthwise ones; ``None`` is ReLU6.
        kwargs: Arguments of MMDetection's ``SSDHead``: ``anchor_generator``, ``bbox_coder``, …

    Raises:
        ValueError: ``use_depthwise`` is given, which it always is.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (576, 1280, 512, 256, 256, 128),
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if 'use_depthwise' in kwargs:
            raise ValueError(
                f'use_depthwise must be left out of SSDLiteHead, which is always depthwise, got '
                f'{kwargs["use_depthwise"]!r}; SSDHead has the choice'
            )
        norm_cfg, act_cfg = norm_cfg or dict(type='BN', eps=1e-3), act_cfg or dict(type='ReLU6')
        super().__init__(num_classes, in_channels, use_depthwise=True, norm_cfg=norm_cfg, act_cfg=act_cfg, **kwargs)

    def _init_layers(self) -> None:
        """Builds MMDetection's layers, with another convolution at the end of each."""
        super()._init_layers()
        for convs in (self.cls_convs, self.reg_convs):
            for layers in convs:
                last: nn.Conv2d = layers[-1]
                layers[-1] = ConvModule(
                    last.in_channels, last.out_channels, 1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=None
                )


class SSDLiteAnchorGenerator(SSDAnchorGenerator):
    """SSD's anchors with centres at ``(stride - 1) / 2``, as MMDetection 1.x and FNA's SSDLite have them.

    MMDetection 3 has them at ``stride / 2``. Sizes are MMDetection 3's: its ``LegacySSDAnchorGenerator`` also subtracts
    a pixel of each side and rounds, which goes with boxes that count their last pixel.

    Args:
        kwargs: Arguments of MMDetection's ``SSDAnchorGenerator``: ``strides``, ``ratios``, ``min_sizes``, …
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.centers = [((width - 1) / 2, (height - 1) / 2) for width, height in self.strides]
        self.base_anchors = self.gen_base_anchors()

"""One network: builds any `ArchSpec`."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from mmnas_ext.archs import ArchSpec, places
from mmnas_ext.backbones.chain import Chain, norm_with_eps, said_eps
from mmnas_ext.ops import act_layer_cfg, build_layer
from mmnas_ext.registry import MODELS


@MODELS.register_module()
class MBNet(Chain):
    """A backbone that an architecture describes.

    Args:
        arch: Anything that `ArchSpec.parse` reads: a zoo name, FNA text, timm block strings, JSON, a path.
        out_indices: Outputs: stage indices, ``len(stages)`` for the head, ``'<stage>.expand'``. The head is
            built only if it is asked for. By default 1, 2, 4 and 6, of a network of less than seven stages the last of
            each stride from 4 on.
        output_stride: 8, 16 or 32. A stage that would pass it keeps its resolution and is dilated instead.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: Keep every batch norm in eval mode.
        norm_cfg: Norm of every convolution. An ``eps`` in it is what is built, whatever the weights were trained with;
            without one it is that of the weights where that is known (`mmnas_ext.remap.epsilon`), else the
            architecture's, else 1e-5.
        act_cfg: Activation; ``None`` takes the architecture's.
        with_cp: Recompute each layer in the backward pass to save memory.
        drop_path_rate: Drop-path probability: that of layer i of n, counted from 0 over all stages, is
            ``rate * i / n``, as in DNA's retraining (0.2 * i / 22).
        channels_last: Compute in memory layout NHWC, in which depthwise convolutions are faster on a CPU;
            on a GPU it pays under autocast.
        init_cfg: MMEngine's, or ``dict(type='mmnas_ext.Remapped', seed=…)``. Its ``Pretrained`` is read without running
            code, with the epsilon that the file notes, and must have every tensor.
        pretrained: ``None``. MMSegmentation's models hand on their own ``pretrained``, weights of the backbone that
            stood there before: set ``model.pretrained=None``.

    Raises:
        ValueError: The architecture is malformed, or an argument is out of its range.
    """

    def __init__(
        self,
        arch: Any,
        out_indices: Sequence[int | str] | None = None,
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        channels_last: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        pretrained: str | None = None,
    ) -> None:
        spec = ArchSpec.parse(arch)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must lie in [0, 1), got {drop_path_rate}')
        eps = said_eps(norm_cfg, arch, spec)
        norm_cfg = norm_with_eps(norm_cfg, spec, init_cfg)
        act_cfg = act_cfg or act_layer_cfg(spec.act)
        rates = iter(_linear(drop_path_rate, sum(spec.depths)))
        stages = [
            nn.ModuleList(
                build_layer(
                    place.tokens[0], place.in_channels, place.channels, place.stride, place.dilation, norm_cfg, act_cfg,
                    drop_path=next(rates), with_cp=with_cp,
                )
                for place in stage
            )
            for stage in places(spec, output_stride=output_stride).stages
        ]  # fmt: skip
        super().__init__(
            spec, stages, out_indices, output_stride, norm_cfg, eps, act_cfg,
            frozen_stages, norm_eval, channels_last, init_cfg, pretrained,
        )  # fmt: skip
        self.arch = spec


def _linear(rate: float, count: int) -> list[float]:
    return [rate * i / count for i in range(count)]

"""What a network and a super-network share: stem, stages, which features leave, and what is frozen."""

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import STEMS, ArchSpec, BlockSpec, Place, SearchSpace, places, pyramid, zoo
from mmnas_ext.archs.convs import head_conv
from mmnas_ext.archs.places import Places
from mmnas_ext.ops import build_conv, build_stem
from mmnas_ext.registry import name_of
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.remap.pretrained import SafePretrained

_DEFAULT_EPS = 1e-5  # PyTorch's
_NORMS = ('BN', 'SyncBN', 'BN2d', 'BatchNorm2d', 'SyncBatchNorm')  # those with an epsilon that a seed has too
_SEVEN_STAGES = (1, 2, 4, 6)


class Chain(BaseModule):
    """Stem and stages in a row, read at `out_indices`.

    Subclasses hand in the layers; nothing here knows whether a layer is fixed or searched.

    Args:
        spec: The network or space, for channels and strides.
        stages: The layers of each stage.
        out_indices: What `forward` returns, in this order: a stage's index (0 is the 16-channel one of these
            networks), ``len(stages)`` for the 1x1 head, or ``'<stage>.expand'`` for the expansion inside a
            stage's first layer; ``None`` is `default_outputs`.
        output_stride: The output stride that the stages were built for.
        norm_cfg: Norm of stem and head.
        eps: Epsilon of batch norms that ``norm_cfg`` asks for, and that of a written architecture; ``None`` each where
            nothing is said. See `mmnas_ext.remap.epsilon`.
        act_cfg: Activation of stem and head.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: Keep every batch norm in eval mode, statistics frozen.
        channels_last: Compute in memory layout NHWC, in which depthwise convolutions are faster on a CPU;
            on a GPU it pays under autocast.
        init_cfg: MMEngine's.
        pretrained: ``None``; the keyword that MMSegmentation's models write into their backbone.
        stem_act_cfg: Activation of the stem; ``None`` takes `act_cfg`.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Input pixels per output pixel, of each output.
    """

    def __init__(
        self,
        spec: ArchSpec | SearchSpace,
        stages: Sequence[nn.ModuleList],
        out_indices: Sequence[int | str] | None,
        output_stride: int,
        norm_cfg: dict[str, Any],
        eps: tuple[float | None, float | None],
        act_cfg: dict[str, Any],
        frozen_stages: int,
        norm_eval: bool,
        channels_last: bool,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
        pretrained: str | None = None,
        stem_act_cfg: dict[str, Any] | None = None,
    ) -> None:
        if pretrained is not None:
            # MMSegmentation hands its model's `pretrained` down; another network's weights would leave ours random
            raise ValueError(
                f'pretrained must be None for this backbone, got {pretrained!r:.80}, weights of another network: set '
                "model.pretrained=None, and say in model.backbone.init_cfg (type='mmnas_ext.Remapped' or 'Pretrained') "
                'what it starts from'
            )
        super().__init__(init_cfg or default_init())
        self.asked_eps, self.said_eps = eps
        out_indices = default_outputs(spec) if out_indices is None else out_indices
        self.out_indices = tuple([out_indices] if isinstance(out_indices, int | str) else out_indices)
        check_out_indices(self.out_indices, spec)
        if not -1 <= frozen_stages <= len(spec.stages):
            raise ValueError(f'frozen_stages must lie in -1..{len(spec.stages)}, got {frozen_stages}')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.channels_last = channels_last
        self.output_stride = output_stride
        self.stem = build_stem(STEMS[spec.stem], spec.stem_channels, norm_cfg, stem_act_cfg or act_cfg)
        self.stages = nn.ModuleList(stages)
        self.head = None
        if len(spec.stages) in self.out_indices:
            assert spec.head_channels is not None, 'check_out_indices has seen to it'
            self.head = build_conv(head_conv(spec.stages[-1].channels, spec.head_channels), norm_cfg, act_cfg)
        self.out_channels, self.out_strides = _outputs(self.out_indices, spec, output_stride)
        self._freeze()

    def layers(self) -> list[list[Any]]:
        """The layers of each stage."""
        return [list(cast(nn.ModuleList, stage)) for stage in self.stages]

    @property
    def bn_eps(self) -> float | None:
        """Epsilon of the first batch norm, which all others share; ``None`` without any, as in a fused network."""
        found = (float(module.eps) for module in self.modules() if isinstance(module, _BatchNorm))
        return next(found, None)

    def set_bn_eps(self, eps: float) -> None:
        """Gives every batch norm this epsilon."""
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images ``(N, 3, H, W)`` to one ``(N, out_channels[i], ...)`` per entry of `out_indices`."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        features: dict[int | str, Tensor] = {}
        for index, stage in enumerate(self.layers()):
            for j, layer in enumerate(stage):
                if j == 0 and f'{index}.expand' in self.out_indices:
                    x, features[f'{index}.expand'] = layer.forward_with_expansion(x)
                else:
                    x = layer(x)
            features[index] = x
        if self.head is not None:
            features[len(self.stages)] = self.head(x)
        return tuple(features[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> 'Chain':
        """Switches to training mode, what is frozen excepted."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialises; weights of a file are the last word, and are read without running any code in it."""
        cfgs: list[Any] = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or ())
        loads = [cfg for cfg in cfgs if is_remapped(cfg) or is_pretrained(cfg)]
        if not loads:
            super().init_weights()
            return
        if self.is_init:
            return
        others = [cfg for cfg in cfgs if cfg not in loads]
        if others:
            initialize(self, others)
        for cfg in loads:
            kind: Any = RemappedInit if is_remapped(cfg) else SafePretrained
            kind(**{key: value for key, value in cfg.items() if key not in ('type', '_scope_')})(self)
        self._is_init = True

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in [self.stem, *self.stages[: self.frozen_stages]]:
            module.eval()
            module.requires_grad_(False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # a batch norm's epsilon is part of what its weights compute, and no state dict has a key for it
        if self.bn_eps is not None:
            destination._metadata[prefix[:-1]]['bn_eps'] = self.bn_eps

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        assumed = local_metadata.get('bn_eps_assumed', False)
        if 'bn_eps' in local_metadata and not (assumed and self.asked_eps is not None):
            self.set_bn_eps(local_metadata['bn_eps'])
        if self.head is None:
            _strict, _missing, unexpected, _errors = args
            unexpected[:] = [key for key in unexpected if not key.startswith(f'{prefix}head.')]


def is_remapped(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` is of type ``Remapped``, with or without its scope."""
    return name_of(init_cfg) in ('Remapped', 'RemappedInit')


def is_pretrained(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` is of type ``Pretrained``, MMEngine's or ours."""
    return name_of(init_cfg) in ('Pretrained', 'PretrainedInit', 'SafePretrained')


def said_eps(norm_cfg: dict[str, Any] | None, source: Any, spec: ArchSpec | SearchSpace) -> tuple[Any, Any]:
    """The epsilon that a norm config asks for, and that of an architecture or space which is not just named.

    Args:
        norm_cfg: The norm config as given.
        source: The architecture or space as given.
        spec: What it stands for.
    """
    asked = (norm_cfg or {}).get('eps')
    named = isinstance(source, str) and source.strip() in (*zoo.names(), *zoo.spaces())
    return None if asked is None else float(asked), None if named else spec.bn_eps


def norm_with_eps(norm_cfg: dict[str, Any] | None, spec: ArchSpec | SearchSpace, init_cfg: Any) -> dict[str, Any]:
    """The norm config with its epsilon: as given, else the architecture's, else the seed architecture's, else 1e-5."""
    norm_cfg = dict(norm_cfg or dict(type='BN'))
    if 'eps' in norm_cfg or name_of(norm_cfg) not in _NORMS:
        return norm_cfg
    eps = spec.bn_eps
    seed = init_cfg.get('seed') if is_remapped(init_cfg) else None
    if eps is None and isinstance(seed, dict) and seed.get('arch') is not None:
        eps = ArchSpec.parse(seed['arch']).bn_eps
    return {**norm_cfg, 'eps': eps or _DEFAULT_EPS}


def default_outputs(spec: ArchSpec | SearchSpace) -> tuple[int, ...]:
    """What a backbone gives where nothing is said: strides 4, 8, 16 and 32 of MobileNetV2, its like, and ResNet."""
    return _SEVEN_STAGES if len(spec.stages) >= 7 else pyramid(spec)


def check_out_indices(out_indices: tuple[int | str, ...], spec: ArchSpec | SearchSpace) -> None:
    """Raises ValueError for an output that `spec` does not have."""
    count = len(spec.stages)
    head = spec.head_channels
    allowed = [*range(count + bool(head)), *(f'{i}.expand' for i in range(count) if _expansion(spec, i) > 1)]
    for index in out_indices:
        if isinstance(index, bool) or index not in allowed:
            without = '' if head else f'; this network has no head, so no {count}'
            raise ValueError(f'out_indices must be among {allowed}, got {index!r}{_split(spec, index)}{without}')
    if not out_indices:
        raise ValueError(f'out_indices must name at least one output, got none; allowed are {allowed}')


def _expansion(spec: ArchSpec | SearchSpace, stage: int) -> float:
    """Expansion of a stage's first layer; 0 where it has none, or its candidates have several."""
    found = _expansions(spec, stage)
    return found[0] if len(found) == 1 else 0


def _expansions(spec: ArchSpec | SearchSpace, stage: int) -> list[float]:
    """The expansions that a stage's first layer may have; 0 stands for none."""
    first = spec.stages[stage].layers[0]
    blocks = [BlockSpec.parse(token) for token in ([first] if isinstance(first, str) else first)]
    return sorted({block.expansion if block.expands else 0 for block in blocks})


def _split(spec: ArchSpec | SearchSpace, index: Any) -> str:
    """What a message says of an expansion that is no output, as candidates have several."""
    inside = re.fullmatch(r'([0-9]+)\.expand', index) if isinstance(index, str) else None
    if inside is None or int(inside[1]) >= len(spec.stages) or len(_expansions(spec, int(inside[1]))) == 1:
        return ''
    several = ' and '.join(f'{each:g}' for each in _expansions(spec, int(inside[1])))
    return f': candidates of that layer have expansions {several}, and a feature needs one'


def _outputs(
    out_indices: tuple[int | str, ...], spec: ArchSpec | SearchSpace, output_stride: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of what leaves."""
    walk = places(spec, output_stride=output_stride)
    channels, strides = [], []
    for index in out_indices:
        place = walk.stages[int(index.partition('.')[0])][0] if isinstance(index, str) else _last(walk, index)
        # an expansion inside a layer stands before the layer's stride
        inside = isinstance(index, str)
        channels.append(place.convs(place.tokens[0])[0].channels if inside else place.channels)
        strides.append(place.reached // (place.stride if inside else 1))
    return tuple(channels), tuple(strides)


def _last(walk: Places, index: int) -> Place:
    """What an output leaves: a stage's last layer, or the head."""
    place = walk.head if index == len(walk.stages) else walk.stages[index][-1]
    assert place is not None, 'check_out_indices has seen to it'
    return place


def default_init() -> list[dict[str, Any]]:
    """What networks are initialised by where a config says nothing."""
    return [
        dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
        dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
    ]

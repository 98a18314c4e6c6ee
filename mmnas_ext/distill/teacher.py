"""The teacher: a frozen network whose features the student imitates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.backbones.chain import Chain
from mmnas_ext.distill.align import Tap
from mmnas_ext.ops.statistics import averaged_statistics
from mmnas_ext.registry import MODELS
from mmnas_ext.remap.checkpoints import load_seed, read_state
from mmnas_ext.remap.initializer import RemappedInit

_KEYS = ('backbone', 'timm', 'checkpoint', 'taps', 'pretrained', 'channels_last', 'train_mode')
_PROBE = 64  # height and width in pixels of the image that strides are measured with
_PREFIXES = ('', 'backbone.', 'module.', 'module.backbone.', 'model.')


class _EnoughError(Exception):
    """Ends a forward once all requested features are computed."""


class Teacher(nn.Module):
    """A frozen network; the channels and strides of its features are measured on an image.

    Give either a registered backbone or the name of a timm network. Features are the outputs of the modules that
    `taps` names. By default they are the outputs of the last layer of each stage for an `MBNet` and for timm's
    EfficientNets and MobileNets, and the outputs of the backbone for any other. If modules are named, the forward
    stops after the last one that is needed.

    Args:
        backbone: Config of a backbone of this project, MMDetection, MMSegmentation or MMPretrain (with its scope,
            such as ``mmdet.ResNet``).
        timm: Name of a timm network.
        checkpoint: Weights: a file, a URL or ``package://NAME``, as in `load_seed`.
        taps: Names of modules whose outputs ``(N, C, H, W)`` are the features, in the order in which they run.
        pretrained: Whether timm downloads the weights of a timm network.
        channels_last: Compute in memory layout NHWC.
        train_mode: While blocks learn, run in training mode as the authors do: batch norms normalise by the batch, and
            dropout drops. Running statistics do not follow, so that a step depends on its batch alone; `recalibrate`
            measures them before a rating. By default the network is always in eval mode: an image then has the same
            features in every batch and on every process, in training and in the rating.

    Raises:
        TypeError: An argument has another type.
        ValueError: Both or neither of `backbone` and `timm` are given, a tap is unknown, the checkpoint belongs to
            another network, or an output is not a feature map.
        FileNotFoundError: The checkpoint does not exist.
        ImportError: `timm` is given, and timm is not installed.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        timm: str | None = None,
        checkpoint: str | None = None,
        taps: Sequence[str] | None = None,
        pretrained: bool = False,
        channels_last: bool = False,
        train_mode: bool = False,
    ) -> None:
        super().__init__()
        _check_source(backbone, timm)
        net: Any = _build_timm(timm, pretrained) if timm is not None else MODELS.build(dict(backbone or {}))
        if checkpoint is not None:
            _load(net, checkpoint)
        elif timm is None:
            net.init_weights()
        self.net: nn.Module = net
        self.names = tuple(_default_taps(net, timm) if taps is None else taps)
        modules = dict(net.named_modules())
        unknown = [name for name in self.names if name not in modules]
        if unknown:
            raise ValueError(f'taps must name modules of the teacher, got {unknown[0]!r}; it has {list(modules)[1:9]}…')
        self.channels_last = channels_last
        self.train_mode = train_mode
        self.norms = tuple(module for module in net.modules() if isinstance(module, _BatchNorm))
        if train_mode:
            for norm in self.norms:
                norm.momentum = 0.0  # what a batch has is not kept
        self.requires_grad_(False)
        self.eval()
        self.taps = self._probe()

    @classmethod
    def parse(cls, source: Any) -> 'Teacher':
        """Builds a teacher from a dict of its arguments; returns a `Teacher` as it is."""
        if isinstance(source, Teacher):
            return source
        check_teacher(source)
        return cls(**source)

    def train(self, mode: bool = True) -> 'Teacher':
        """Enters training mode where `train_mode` asks for it, and stays in eval mode otherwise."""
        training = mode and self.train_mode
        super().train(training)
        for norm in self.norms:
            norm.train(training)  # also those that a backbone freezes in its own `train`
        return self

    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """Replaces the batch-norm statistics by those of some images, averaged over the batches; ends in eval mode.

        Args:
            images: Batches ``(N, 3, H, W)``, preprocessed.

        Raises:
            ValueError: `images` is empty.
        """
        self.eval()
        with averaged_statistics(self.norms):
            count = sum(1 for _ in map(self, images))
        self.eval()
        if not count:
            raise ValueError('recalibrate needs at least one batch of images, got none')

    @torch.no_grad()
    def forward(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        """Maps images ``(N, 3, H, W)`` to features ``(N, taps[k].channels, …)``.

        Args:
            x: Images, preprocessed.
            last: Index of the last feature that is needed; by default all are returned.
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if not self.names:
            return tuple(self.net(x))
        names = self.names if last is None else self.names[: last + 1]
        with self._record(names) as found, suppress(_EnoughError):
            self.net(x)
        idle = [name for name in names if name not in found]
        if idle:
            raise ValueError(f'taps must name modules that run in the forward of the teacher, got {idle[0]!r}')
        return tuple(found[name] for name in names)

    @contextmanager
    def _record(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Collects the outputs of the named modules by hooks, and ends the forward after the last of them."""
        found: dict[str, Tensor] = {}
        modules = dict(self.net.named_modules())

        def record(name: str) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                found[name] = output
                if len(found) == len(names):
                    raise _EnoughError

            return hook

        handles = [modules[name].register_forward_hook(record(name)) for name in names]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def _probe(self) -> tuple[Tap, ...]:
        """Measures channels and strides of the features on an image of zeros."""
        taps = []
        for feature in self(torch.zeros(1, 3, _PROBE, _PROBE)):
            if not isinstance(feature, Tensor) or feature.ndim != 4:
                shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
                raise ValueError(f'features of the teacher must be maps (N, C, H, W), got {shape}: name others by taps')
            taps.append(Tap(feature.shape[1], _PROBE // feature.shape[3]))
        return tuple(taps)


def check_teacher(source: Any) -> None:
    """Raises one clear error for arguments that a `Teacher` cannot take; nothing is built.

    Args:
        source: Its arguments.

    Raises:
        ValueError: A key is unknown, or both or neither of ``backbone`` and ``timm`` are given.
        TypeError: `source` or an argument has another type.
    """
    if not isinstance(source, Mapping):
        raise TypeError(f'teacher must be dict(backbone=…) or dict(timm=NAME), got {source!r:.100}')
    unknown = [key for key in source if key not in _KEYS]
    if unknown:
        raise ValueError(f'the keys of teacher must be among {_KEYS}, got {unknown[0]!r}')
    for key, kind, what in (
        ('backbone', Mapping, "dict(type='…', …)"),
        ('timm', str, 'the name of a timm network'),
        ('checkpoint', str | Path, 'a file, a URL or package://NAME'),
        ('taps', Sequence, 'a list of names of modules'),
        ('pretrained', bool, 'True or False'),
        ('channels_last', bool, 'True or False'),
        ('train_mode', bool, 'True or False'),
    ):
        value = source.get(key)
        if value is not None and (not isinstance(value, kind) or (key == 'taps' and isinstance(value, str))):
            raise TypeError(f'teacher.{key} must be {what}, got {value!r:.100}')
    _check_source(source.get('backbone'), source.get('timm'))


def _check_source(backbone: Any, timm: Any) -> None:
    if (backbone is None) == (timm is None):
        raise ValueError(
            f'teacher must have either backbone=dict(…) or timm=NAME, got backbone={backbone!s:.100} and timm={timm!r}'
        )


def _default_taps(net: Any, timm: str | None) -> list[str]:
    """Names the last layer of each stage; returns an empty list if the features are the backbone's outputs."""
    if isinstance(net, Chain):
        return [f'stages.{i}.{len(stage) - 1}' for i, stage in enumerate(net.layers())]
    if timm is None:
        return []
    blocks = getattr(net, 'blocks', None)
    # for EfficientNets and MobileNets feature_info lacks the stages that keep the stride
    if isinstance(blocks, nn.Sequential) and all(isinstance(stage, nn.Sequential) for stage in blocks):
        return [f'blocks.{i}' for i in range(len(blocks))]
    info = getattr(net, 'feature_info', None)
    if not info:
        raise ValueError(f'timm has no feature_info for {timm}: name the modules that give the features, taps=[…]')
    return [each['module'] for each in info]


def _build_timm(name: str, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ImportError('teacher=dict(timm=…) needs timm: run pip install timm') from None
    if not timm.is_model(name):
        near = timm.list_models(f'*{name.split("_")[-1]}*')[:6]
        raise ValueError(f'timm has no network {name!r}; similar names are {near}')
    return timm.create_model(name, pretrained=pretrained)


def _load(net: nn.Module, checkpoint: str) -> None:
    """Loads all weights of a checkpoint with any of the known prefixes; for an `MBNet`, of any known layout."""
    arch = getattr(net, 'arch', None)
    if isinstance(net, Chain) and arch is not None:
        seed = load_seed(checkpoint, arch.replace(bn_eps=net.said_eps))  # the zoo's says nothing of these weights
        RemappedInit(seed)(net)
        return
    state, _ = read_state(checkpoint)
    wanted = [key for key in net.state_dict() if not key.endswith('num_batches_tracked')]
    for prefix in _PREFIXES:
        if all(prefix + key in state for key in wanted):
            own = net.state_dict()
            try:
                net.load_state_dict({key: state[prefix + key] for key in own if prefix + key in state}, strict=False)
            except RuntimeError as error:
                raise ValueError(
                    f'teacher checkpoint {checkpoint} belongs to another network: {" ".join(str(error).split())[:180]}'
                ) from None
            return
    missing = [key for key in wanted if key not in state]
    raise ValueError(
        f'teacher checkpoint {checkpoint} belongs to another network: {len(missing)} of {len(wanted)} tensors are '
        f'missing, the first is {missing[0]}; the checkpoint has {list(state)[:4]}'
    )

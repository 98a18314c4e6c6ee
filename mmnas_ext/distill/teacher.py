"""The teacher: a frozen network whose features are imitated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from mmnas_ext.backbones.chain import Chain
from mmnas_ext.distill.align import Tap
from mmnas_ext.registry import MODELS
from mmnas_ext.remap.checkpoints import load_seed, read_state
from mmnas_ext.remap.initializer import RemappedInit

_KEYS = ('backbone', 'timm', 'checkpoint', 'taps', 'pretrained', 'channels_last')
_PROBE = 64  # pixels of the image by which strides are found
_PREFIXES = ('', 'backbone.', 'module.', 'module.backbone.', 'model.')


class _EnoughError(Exception):
    """All features that are asked for have been computed."""


class Teacher(nn.Module):
    """A frozen network in eval mode; its features' channels and strides are read off an image.

    Give either a registered backbone or the name of a timm network. Features are the outputs of the modules named by
    `taps`; by default the last layer of each stage of an `MBNet` and of timm's EfficientNets and MobileNets, and the
    outputs of any other backbone. Where modules are named, nothing behind the last one asked for is computed.

    Args:
        backbone: Config of a backbone of this project, MMDetection, MMSegmentation (with its scope, ``mmdet.ResNet``)
            or MMPretrain.
        timm: Name of a timm network.
        checkpoint: Weights: a file, a URL or ``package://NAME``, as `load_seed` takes them.
        taps: Names of modules whose outputs ``(N, C, H, W)`` are the features, in the order in which they are run.
        pretrained: Of a timm network: whether timm fetches its weights.
        channels_last: Compute in memory layout NHWC.

    Raises:
        ValueError: Both or neither of `backbone` and `timm` are given, a tap is unknown, the checkpoint is of another
            network, or an output is no feature map.
        FileNotFoundError: There is no such checkpoint.
        ImportError: `timm` is asked for and not installed.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        timm: str | None = None,
        checkpoint: str | None = None,
        taps: Sequence[str] | None = None,
        pretrained: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if (backbone is None) == (timm is None):
            raise ValueError(f'a teacher is either backbone=dict(…) or timm=NAME, got {backbone!r} and {timm!r}')
        net: Any = _timm(timm, pretrained) if timm is not None else MODELS.build(dict(backbone or {}))
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
        self.requires_grad_(False)
        self.eval()
        self.taps = self._probe()

    @classmethod
    def parse(cls, source: Any) -> 'Teacher':
        """A teacher from its arguments as a dict, or one that is there already."""
        if isinstance(source, Teacher):
            return source
        unknown = [key for key in source if key not in _KEYS]
        if unknown:
            raise ValueError(f'teacher takes the keys {_KEYS}, got {unknown[0]!r}')
        return cls(**source)

    def train(self, mode: bool = True) -> 'Teacher':
        """Stays in eval mode."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        """Maps images ``(N, 3, H, W)`` to features ``(N, taps[k].channels, …)``.

        Args:
            x: Images, preprocessed.
            last: Index of the last feature that is needed; by default all are given.
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if not self.names:
            return tuple(self.net(x))
        names = self.names if last is None else self.names[: last + 1]
        with self._recorded(names) as found, suppress(_EnoughError):
            self.net(x)
        idle = [name for name in names if name not in found]
        if idle:
            raise ValueError(f'taps must name modules that the teacher calls, and it never calls {idle[0]!r}')
        return tuple(found[name] for name in names)

    @contextmanager
    def _recorded(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
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
        taps = []
        for feature in self(torch.zeros(1, 3, _PROBE, _PROBE)):
            if not isinstance(feature, Tensor) or feature.ndim != 4:
                shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
                raise ValueError(f'a teacher gives feature maps (N, C, H, W), got {shape}: name others by taps')
            taps.append(Tap(feature.shape[1], _PROBE // feature.shape[3]))
        return tuple(taps)


def _default_taps(net: Any, timm: str | None) -> list[str]:
    """The last layer of each stage where stages are known by name; none where a backbone's outputs serve."""
    if isinstance(net, Chain):
        return [f'stages.{i}.{len(stage) - 1}' for i, stage in enumerate(net.layers())]
    if timm is None:
        return []
    blocks = getattr(net, 'blocks', None)
    # EfficientNets and MobileNets: their feature_info leaves out stages that keep the stride
    if isinstance(blocks, nn.Sequential) and all(isinstance(stage, nn.Sequential) for stage in blocks):
        return [f'blocks.{i}' for i in range(len(blocks))]
    info = getattr(net, 'feature_info', None)
    if not info:
        raise ValueError(f'timm says nothing of the features of {timm}: name the modules that give them, taps=[…]')
    return [each['module'] for each in info]


def _timm(name: str, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ImportError('teacher=dict(timm=…) needs timm: run pip install timm') from None
    if not timm.is_model(name):
        near = timm.list_models(f'*{name.split("_")[-1]}*')[:6]
        raise ValueError(f'timm has no network {name!r}; of similar name are {near}')
    return timm.create_model(name, pretrained=pretrained)


def _load(net: nn.Module, checkpoint: str) -> None:
    """Loads a checkpoint whole, whatever prefix its keys have; of an `MBNet` any known layout."""
    arch = getattr(net, 'arch', None)
    if isinstance(net, Chain) and arch is not None:
        seed = load_seed(checkpoint, arch)
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
                raise ValueError(f'teacher checkpoint {checkpoint} is of another network: {error}') from None
            return
    missing = [key for key in wanted if key not in state]
    raise ValueError(
        f'teacher checkpoint {checkpoint} is of another network: of {len(wanted)} tensors it lacks {len(missing)}, '
        f'the first is {missing[0]}; it holds {list(state)[:4]}'
    )

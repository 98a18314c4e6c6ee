"""A network in timm's words: block strings, and the model that timm builds from them, compared with ours."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap.renaming import rename

_ACTS = {'relu6': nn.ReLU6, 'swish': nn.SiLU, 'relu': nn.ReLU, 'hswish': nn.Hardswish}
DEFAULT_EPS = 1e-5  # PyTorch's
_CODE = '''"""timm's EfficientNet of the block strings that `mmnas export --timm` wrote, without a classifier."""

from functools import partial

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

STAGES = [
    {stages},
]


def build():
    """The network; weights that `mmnas export --keys timm` wrote fit, and `forward_features` gives its features."""
    return EfficientNet(
        decode_arch_def(STAGES),
        num_classes=0,
        num_features={features},
        stem_size={stem},
        fix_stem=True,
        act_layer=nn.{act},
        norm_layer=partial(nn.BatchNorm2d, eps={eps!r}),
        round_chs_fn=lambda channels, *_: channels,
        global_pool='',
    )
'''


class ExportError(ValueError):
    """A network cannot be exported so, or what was written does not compute what the network does."""


def build_timm(arch: ArchSpec) -> nn.Module:
    """The network as timm's EfficientNet builds it from the block strings of `arch`, without a classifier.

    Raises:
        ExportError: timm is not installed.
    """
    try:
        from timm.models._efficientnet_builder import decode_arch_def
        from timm.models.efficientnet import EfficientNet
    except ImportError as error:
        raise ExportError(f'timm builds its networks, and cannot be imported ({error}): pip install timm') from None
    built: nn.Module = EfficientNet(
        decode_arch_def(_stages(arch)),
        num_classes=0,
        num_features=arch.head_channels or 0,
        stem_size=arch.stem_channels,
        fix_stem=True,
        act_layer=_ACTS[arch.act],
        norm_layer=partial(nn.BatchNorm2d, eps=arch.bn_eps or DEFAULT_EPS),
        round_chs_fn=lambda channels, *_: channels,
        global_pool='',
    )
    return built.eval()


def _stages(arch: ArchSpec) -> list[list[str]]:
    """The block strings of its stages: stem and head are arguments in timm."""
    rows: list[list[str]] = json.loads(arch.format('timm'))
    return rows[1 : None if arch.head_channels is None else -1]


def timm_module(blocks: str | Path) -> Path:
    """Where the module goes that builds the network of a file of block strings: beside it.

    Raises:
        ValueError: That is the file itself.
    """
    module = Path(blocks).with_suffix('.py')
    if module == Path(blocks):
        raise ValueError(f'--timm must name a file such as blocks.json: blocks.py goes beside it, got {blocks}')
    return module


def timm_code(arch: ArchSpec, state: Mapping[str, Tensor] | None = None) -> str:
    """A module whose ``build()`` is the network in timm: what block strings leave open is written out.

    Args:
        arch: The network.
        state: Its tensors under `MBNet`'s keys; without those of a head none is built.
    """
    arch = without_head(arch, state)
    return _CODE.format(
        stages=',\n    '.join(map(json.dumps, _stages(arch))),
        features=arch.head_channels or 0,
        stem=arch.stem_channels,
        act=_ACTS[arch.act].__name__,
        eps=arch.bn_eps or DEFAULT_EPS,
    )


def without_head(arch: ArchSpec, state: Mapping[str, Tensor] | None) -> ArchSpec:
    """The architecture of these tensors, which may be those of a network without its head."""
    headless = state and not any(key.startswith('head.') for key in state)
    return arch.replace(head_channels=None) if headless else arch


def check_timm(arch: ArchSpec, state: Mapping[str, Tensor] | None = None, theirs: nn.Module | None = None) -> str:
    """Says what timm builds from the block strings, after comparing it with our network.

    Args:
        arch: The network.
        state: Its tensors under `MBNet`'s keys; without them random ones are compared.
        theirs: What timm built; by default it builds the network here.

    Raises:
        ExportError: timm is not installed, or builds another network.
    """
    arch = without_head(arch, state)
    theirs = build_timm(arch) if theirs is None else theirs.eval()
    ours = MBNet(arch, out_indices=(len(arch.stages) - (arch.head_channels is None),)).eval()
    renamed = rename(state or ours.state_dict(), arch, 'timm')
    expected = {key: tuple(tensor.shape) for key, tensor in renamed.items()}
    got = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    if expected != got:
        odd = sorted(key for key in {*expected, *got} if expected.get(key) != got.get(key))
        raise ExportError(
            f'timm builds another network from the block strings: {odd[0]} must be {expected.get(odd[0])}, got '
            f'{got.get(odd[0])} (timm rounds expanded widths to multiples of 8)'
        )
    params = sum(parameter.numel() for parameter in theirs.parameters())
    theirs.load_state_dict(renamed, strict=True)
    if state:
        ours.load_state_dict(dict(state))
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    forward: Any = theirs.forward_features
    with torch.no_grad():
        mine, other = ours(image)[-1], forward(image)
    if mine.shape != other.shape or not torch.allclose(mine, other, rtol=1e-4, atol=1e-4):
        raise ExportError('timm builds a network of the same tensors that computes something else')
    return f'timm builds the same network: {params} parameters, the same features'

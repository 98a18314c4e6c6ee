"""Registers every zoo network under a name of its own: ``type='mmnas_ext.DNA_a'`` in any config."""

from collections.abc import Callable
from typing import Any

from mmnas_ext.archs import zoo
from mmnas_ext.backbones.mbnet import MBNet
from mmnas_ext.registry import MODELS

NAMES = zoo.TYPES


def _make_builder(name: str, arch: str) -> Callable[..., MBNet]:
    """Returns the function that is registered as `name` and builds the network `arch`."""

    def build(**kwargs: Any) -> MBNet:
        return MBNet(arch=arch, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'Builds an `MBNet` of the zoo network ``{arch}``; takes all other arguments of `MBNet`.'
    return build


for _name, _arch in NAMES.items():
    assert _arch in zoo.names(), f'{_arch} is not in the zoo'
    MODELS.register_module(name=_name, module=_make_builder(_name, _arch))

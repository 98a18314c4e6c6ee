"""Registers every zoo network under a name of its own: ``type='mmnas_ext.DNA_a'`` in any config.

The hosts use the names ``MobileNetV2`` and ``EfficientNet``, so ours end in ``MB`` for MBNet.
"""

from collections.abc import Callable
from typing import Any

from mmnas_ext.archs import zoo
from mmnas_ext.backbones.mbnet import MBNet
from mmnas_ext.registry import MODELS

NAMES = {
    'MobileNetV2MB': 'mobilenet_v2',
    'EfficientNetLite0MB': 'efficientnet_lite0',
    'EfficientNetLite1MB': 'efficientnet_lite1',
    'EfficientNetLite2MB': 'efficientnet_lite2',
    'FNA_RetinaNet': 'fna_retinanet',
    'FNA_SSDLite': 'fna_ssdlite',
    'FNA_DeepLabv3': 'fna_deeplabv3',
    'DNA_a': 'dna_a',
    'DNA_b': 'dna_b',
    'DNA_c': 'dna_c',
    'DNA_d': 'dna_d',
}


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

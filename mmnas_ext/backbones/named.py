"""Every zoo network under its own name: ``type='mmnas_ext.DNA_a'`` in any config.

``MobileNetV2`` and ``EfficientNet`` are taken by the hosts, so ours say that they are MBNets.
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


def _builder(name: str, arch: str) -> Callable[..., MBNet]:
    def build(**kwargs: Any) -> MBNet:
        return MBNet(arch=arch, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'`MBNet` of the zoo network ``{arch}``; takes all of its other arguments.'
    return build


for _name, _arch in NAMES.items():
    assert _arch in zoo.names(), f'{_arch} is not in the zoo'
    MODELS.register_module(name=_name, module=_builder(_name, _arch))
